"""Labels over HTTP, by any saved classifier, ONNX too. pip install 'nlptransfer[serve]'

POST /predict {"texts": ["one", "two"]}, or "one" alone, gives {"predictions": [{"label": ..., "score": ...}, ...]}.
GET /health says how many texts wait. What comes within milliseconds goes through the model together. What is too much
is 413, what cannot wait 503, what is no JSON of texts 422. SIGTERM lets what is under way be answered first.

python recipes/serve.py runs/reviews --port 9000 --max-waiting 500
"""

import asyncio
from itertools import islice
from typing import Annotated, Any

import pyarrow as pa
from typer import Argument, Option

from nlptransfer import Classifier
from nlptransfer.cli import run_verb


def main(
    model: Annotated[str, Argument(help="folder of a classifier, or a hub id")],
    host: Annotated[str, Option(help="address that it listens to")] = "127.0.0.1",
    port: Annotated[int, Option(help="0: a free one, which is said")] = 8000,
    max_texts: Annotated[int, Option(help="of a request")] = 256,
    max_characters: Annotated[int, Option(help="of a text")] = 10_000,
    max_waiting: Annotated[int, Option(help="texts that wait or are predicted")] = 4096,
) -> None:
    import uvicorn
    from fastapi import FastAPI, HTTPException, Request
    from pydantic import TypeAdapter, ValidationError

    classifier, content = Classifier.load(model), TypeAdapter(dict[str, str | list[str]])
    app, one_at_a_time, waiting = FastAPI(), asyncio.Lock(), list[tuple[list[str], asyncio.Future[Any]]]()

    def predict(texts: list[str]) -> list[dict[str, Any]]:
        return [row for rows in classifier.batches(texts) for row in pa.table(rows.columns()).to_pylist()]

    async def predict_waiting() -> None:
        await asyncio.sleep(0.005)
        some = [*waiting]
        try:
            rows = iter(await asyncio.to_thread(predict, [text for texts, _ in some for text in texts]))
            for texts, answer in some:
                answer.set_result([*islice(rows, len(texts))])
        except Exception as error:
            for _, answer in some:
                answer.set_exception(error)
        del waiting[: len(some)]

    app.get("/health")(lambda: {"status": "ok", "waiting": sum(len(texts) for texts, _ in waiting)})

    @app.post("/predict")
    async def answer(request: Request) -> dict[str, Any]:
        body, too_much = bytearray(), HTTPException(413, f"expected {max_texts} texts of {max_characters} characters")
        async for part in request.stream():
            body += part
            if len(body) > 1024 + 12 * max_texts * max_characters:  # escaped, as \\ud83d\\ude00
                raise too_much
        try:
            texts = content.validate_json(body)["texts"]
        except (ValidationError, KeyError) as error:
            raise HTTPException(422, 'expected JSON as {"texts": ["one", "two"]}') from error
        texts = [texts] if isinstance(texts, str) else texts
        if len(texts) > max_texts or max(map(len, texts), default=0) > max_characters:
            raise too_much
        if sum(len(texts) for texts, _ in [*waiting, (texts, None)]) > max_waiting:
            raise HTTPException(503, "too many texts wait", {"Retry-After": "1"})
        waiting.append((texts, mine := asyncio.get_running_loop().create_future()))
        async with one_at_a_time:
            if not mine.done():
                await predict_waiting()
        return {"predictions": await mine}

    uvicorn.run(app, host=host, port=port, access_log=False, timeout_graceful_shutdown=60)


if __name__ == "__main__":
    run_verb(main, __doc__, extra="serve")
