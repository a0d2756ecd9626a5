"""Writes the small parquet files of this folder (pyarrow 21, Pillow 13). Run:  python make.py
One table in many encodings: text, list of text, bytes, list of struct {bytes, path}, nulls, numbers."""
import io
import os

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

HERE = os.path.dirname(os.path.abspath(__file__))
ROWS = 23


def png(color):
    b = io.BytesIO()
    Image.new("RGB", (32, 28), color).save(b, "PNG")
    return b.getvalue()


def table(large):
    text = pa.large_string() if large else pa.string()
    data = pa.large_binary() if large else pa.binary()
    image = pa.struct([("bytes", data), ("path", text)])
    rows = range(ROWS)
    return pa.table({
        "question": pa.array([None if i == 5 else f"How many? ü {i} " + "x" * (i * 40) for i in rows], text),
        "answers": pa.array([[f"{k}" for k in range(i % 4 + 1)] for i in rows], pa.list_(text)),
        "correct_answer": pa.array(["0"] * ROWS, text),
        "images": pa.array([[{"bytes": png((i * 10, 0, 255 - i * 10)), "path": None}] * (i % 3) for i in rows],
                           pa.list_(image)),
        "number": pa.array([None if i % 7 == 3 else i * 1000003 for i in rows], pa.int64()),
        "share": pa.array([i / 8 for i in rows], pa.float32()),
        "flag": pa.array([i % 2 == 0 for i in rows]),
    })


def write(name, large, **how):
    pq.write_table(table(large), os.path.join(HERE, name + ".parquet"), **how)


write("plain", False, compression="none", use_dictionary=False, row_group_size=100)
write("snappy", False, compression="snappy", use_dictionary=True, row_group_size=4)
write("gzip_v2", False, compression="gzip", data_page_version="2.0", row_group_size=7, data_page_size=64)
write("zstd_large", True, compression="zstd", use_dictionary=False, row_group_size=5)
write("brotli_delta", False, compression="brotli", use_dictionary=False, row_group_size=9, data_page_version="2.0",
      column_encoding={"number": "DELTA_BINARY_PACKED", "correct_answer": "DELTA_BYTE_ARRAY",
                       "question": "DELTA_LENGTH_BYTE_ARRAY", "share": "BYTE_STREAM_SPLIT"})
write("lz4", True, compression="lz4", row_group_size=1)
