"""Labels for the rows of parquet files by Spark, in the Python processes of its executors.

What is written has all columns, with label and score (--outputs: labels, scores). Spark needs Java; spark-submit and
spark-defaults.conf say which cluster, whose machines all see the folders. pip install 'nlptransfer[spark]'

python recipes/predict_with_spark.py runs/reviews rows/ labeled/
spark-submit --master yarn recipes/predict_with_spark.py runs/reviews hdfs:///rows hdfs:///labeled
"""

import os
import sys
from collections.abc import Iterator
from typing import Annotated, Any

from typer import Argument, Option

from nlptransfer import BatchPredictor
from nlptransfer.cli import run_verb

TYPES = {"label": "string", "score": "float", "labels": "array<string>", "scores": "array<float>"}


def main(
    model: Annotated[str, Argument(help="folder of a classifier")],
    rows: Annotated[str, Argument(help="parquet files, as Spark names them")],
    output: Annotated[str, Argument(help="folder that is written, as Spark names it")],
    text_column: Annotated[str, Option(help="column of the texts, or several with commas")] = "text",
    outputs: Annotated[str, Option(help="columns that are added")] = "label,score",
) -> None:
    predictor = BatchPredictor(model, text_column.split(","), outputs.split(","))
    from pyspark.sql import SparkSession

    def predict(frames: Iterator[Any]) -> Iterator[Any]:
        yield from map(predictor, frames)

    # Executors start the Python of this name.
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    data = SparkSession.builder.appName("predict").getOrCreate().read.parquet(rows)
    added = [f"{name} {TYPES.get(name, 'float')}" for name in predictor.outputs]
    schema = ", ".join([f"`{field.name}` {field.dataType.simpleString()}" for field in data.schema.fields] + added)
    data.mapInPandas(predict, schema).write.parquet(output)


if __name__ == "__main__":
    run_verb(main, __doc__, extra="spark")
