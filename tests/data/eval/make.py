"""Writes this folder: a few rows of each evaluation dataset under the names, columns and types that a download has
(pyarrow 21). Run:  python make.py"""
import io
import json
import os
import base64

import pyarrow as pa
import pyarrow.parquet as pq

HERE = os.path.dirname(os.path.abspath(__file__))
PNG = open(os.path.join(HERE, "..", "media", "small_grey16.png"), "rb").read()
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
ONE = {"bytes": PNG, "path": None}
TEXT, TEXTS = pa.string(), pa.list_(pa.string())


def put(path, columns, rows=2):
    path = os.path.join(HERE, path)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    table = pa.table({n: pa.array([v(i) if callable(v) else v for i in range(rows)], t) for n, (v, t) in columns.items()})
    pq.write_table(table, path, compression="snappy")


def lines(path, rows, whole=False):
    path = os.path.join(HERE, path)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as f:
        f.write(json.dumps(rows, indent=1) if whole else "".join(json.dumps(r) + "\n" for r in rows))


for name in ["IQ_Test", "Spatial_Relation", "Multi-view_Reasoning", "Relative_Depth", "Jigsaw"]:
    for split in ["val", "test"]:
        put(f"BLINK/{name}/{split}-00000-of-00001.parquet", {
            "idx": (lambda i: f"{split}_{name}_{i + 1}", TEXT), "question": ("Which?", TEXT), "sub_task": (name, TEXT),
            "image_1": (ONE, IMAGE), "image_2": (lambda i: ONE if i else None, IMAGE), "image_3": (None, IMAGE),
            "image_4": (None, IMAGE), "choices": (["x", "y"], TEXTS), "answer": ("(A)" if split == "val" else "hidden", TEXT),
            "prompt": ("Which?\n(A) x\n(B) y", TEXT), "explanation": ("", TEXT)})
lines("BLINK/dataset_infos.json", {"not": "rows"}, True)
for split in ["train", "val", "test"]:
    put(f"SAT/SAT_{split}.parquet", {
        "image_bytes": ([PNG, PNG], pa.list_(pa.binary())), "question": (f"Which {split}?", TEXT),
        "answers": (["left", "right"], TEXTS), "question_type": ("ego_movement", TEXT), "correct_answer": ("right", TEXT)})
VSI = {"id": (lambda i: i, pa.int64()), "dataset": ("arkitscenes", TEXT), "scene_name": ("41069025", TEXT),
       "question_type": ("object_counting", TEXT), "question": ("How many?", TEXT), "ground_truth": ("4", TEXT),
       "options": (None, TEXTS)}
put("VSI-Bench/test-00000-of-00001.parquet", VSI, 3)
put("VSI-Bench/test_debiased.parquet", VSI)
put("VSI-Bench/test_pruned.parquet", VSI, 1)
put("ERQA/data/test-00000-of-00001.parquet", {
    "question_id": (lambda i: f"ERQA_{i}", TEXT), "question": ("Which? Choices: A. x B. y.", TEXT),
    "question_type": ("Task Reasoning", TEXT), "visual_indices": ([0], pa.list_(pa.int64())), "answer": ("B", TEXT),
    "images": ([ONE], pa.list_(IMAGE))})
put("MMSI-Bench/MMSI_Bench.parquet", {
    "id": (lambda i: i, pa.int64()), "images": ([PNG, PNG], pa.list_(pa.binary())), "question_type": ("MSR", TEXT),
    "question": ("Where?\nOptions: A: x, B: y", TEXT), "answer": ("A", TEXT), "thought": ("", TEXT)})
STARE = {"qid": (lambda i: f"q{i}", TEXT), "question": ("Which?\n(A) x\n(B) y", TEXT), "answer": ("A", TEXT),
         "images": ([ONE], pa.list_(IMAGE)), "other_info": ("", TEXT), "category": ("2d_va", TEXT)}
put("STARE/full/test-00000-of-00001.parquet", STARE, 3)
put("STARE/folding_nets/test-00000-of-00001.parquet", STARE, 1)
SITE = {"question": "How many?", "options": ["1", "2"], "answer": "B", "category": "counting & existence", "dataset": "BLINK"}
lines("SITE-Bench/image_test.jsonl", [dict(SITE, visual=["a.png"]), dict(SITE, visual=["a.png"] * 5), dict(SITE, visual=["a.png", "a.png"])])
lines("SITE-Bench/video_test.jsonl", [dict(SITE, visual=["a.mp4"])])
put("vstar-bench/data/test-00000-of-00001.parquet", {
    "image": (ONE, IMAGE), "text": ("What? (A) x\n(B) y", TEXT), "category": ("direct_attributes", TEXT), "label": ("A", TEXT),
    "question_id": (lambda i: str(i), TEXT)})
for split in ["dev", "validation", "test"]:
    put(f"MMMU/data/{split}-00000-of-00001.parquet", dict({
        "id": (lambda i: f"{split}_Art_{i}", TEXT), "question": ("<image 1> Which?", TEXT), "options": ("['x', 'y']", TEXT),
        "explanation": ("", TEXT)}, **{f"image_{k}": (ONE if k == 1 else None, IMAGE) for k in range(1, 8)}, **{
        "img_type": ("['Painting']", TEXT), "answer": ("B", TEXT), "topic_difficulty": ("Easy", TEXT),
        "question_type": ("multiple-choice", TEXT), "subfield": ("Art", TEXT)}))
URL = "https://huggingface.co/datasets/yale-nlp/MMVU/resolve/main/videos/Art/0.mp4"
lines("MMVU/validation.json", [{
    "id": f"validation_{i}", "video": URL, "youtube_url": "", "metadata": {"subject": "Art"},
    "question": "What happens?", "choices": {"A": "x", "B": "y", "C": "", "D": "", "E": ""}, "answer": "A",
    "question_type": "multiple-choice"} for i in range(2)], True)
put("MME-RealWorld-Lmms-eval/data/train-00000-of-00001.parquet", {
    "index": (lambda i: i, pa.int64()), "image_name": ("a.png", TEXT), "question": ("What?", TEXT),
    "multi-choice options": (["(A) x", "(B) y"], TEXTS), "answer": ("A", TEXT), "category": ("Perception/OCR", TEXT),
    "l2-category": ("text", TEXT), "bytes": (base64.b64encode(PNG).decode(), TEXT)})
for split in ["validation", "test", "testdev"]:
    put(f"VQAv2/data/{split}-00000-of-00001.parquet", {
        "question_type": ("what is", TEXT), "multiple_choice_answer": ("cat", TEXT),
        "answers": ([{"answer": "cat", "answer_confidence": "yes", "answer_id": 1}] * 10, pa.list_(pa.struct([
            ("answer", TEXT), ("answer_confidence", TEXT), ("answer_id", pa.int64())]))), "image_id": (7, pa.int64()),
        "answer_type": ("other", TEXT), "question_id": (lambda i: i, pa.int64()), "question": ("What is it?", TEXT),
        "image": (ONE, IMAGE)})
