"""Read the text of pictures: `python examples/ocr.py [PICTURE …]`

A picture travels as the bytes of its file. The models come inside rapidocr's wheel: only packages are downloaded.
"""

from __future__ import annotations

import sys
from pathlib import Path

from flashq import Endpoint

RECEIPT = Path(__file__).with_name("receipt.png")


@Endpoint(name="ocr", cpu="any", idle_timeout=5, dependencies=["rapidocr>=3.10,<4", "onnxruntime>=1.20"])
class Reader:
    def setup(self) -> None:
        from rapidocr import RapidOCR

        self.engine = RapidOCR()

    def read(self, picture: bytes) -> list[tuple[str, float]]:
        """The lines of text, from the top, each with how sure the model is of it (at most 1)."""
        found = self.engine(picture)
        if found.txts is None:
            return []
        return list(zip(found.txts, map(float, found.scores), strict=True))


def main() -> None:
    files = [Path(name) for name in sys.argv[1:]] or [RECEIPT]
    pictures = (file.read_bytes() for file in files)
    for file, lines in zip(files, Reader().read.map(pictures, progress=False), strict=True):
        print(f"{file.name}:")
        for text, certainty in lines:
            print(f"  {certainty:.2f}  {text}")


if __name__ == "__main__":
    main()
