"""Celery with acks_late (the setting with which a lost job comes back at all), else on its defaults."""

from __future__ import annotations

import os

import job
import talk
from celery import Celery

URL = os.environ["RECOVERY_URL"].replace("unix://", "redis+socket://")
app = Celery("recovery", broker=URL, backend=URL)
app.conf.task_acks_late = True


@app.task(name="work")  # type: ignore[untyped-decorator]
def work(record: str, number: int, stay_s: float) -> int:
    return int(job.run(record, number, stay_s))


def submit(queue: str, record: str, number: int, stay_s: float) -> str:
    return str(work.apply_async((record, number, stay_s), queue=queue).id)


def state(task: str) -> str:
    return {"FAILURE": "failed", "SUCCESS": "finished"}.get(app.AsyncResult(task).state, "other")


if __name__ == "__main__":
    talk.serve({"submit": submit, "state": state})
