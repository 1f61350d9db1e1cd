"""The HTTP gateway: calls of endpoints in JSON, for web services and other languages. JSON in and out, never pickle.

It needs the extra `gateway` (FastAPI and uvicorn); nothing else of flashq imports it.
"""
