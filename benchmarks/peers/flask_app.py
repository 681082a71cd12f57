"""The way of the textbook: Flask under gunicorn, sentence-transformers, one text a forward."""

from __future__ import annotations

import os

import torch
from flask import Flask, jsonify, request
from sentence_transformers import SentenceTransformer

torch.set_num_threads(1)
dtype = getattr(torch, os.environ["BENCH_DTYPE"])
model = SentenceTransformer(os.environ["BENCH_MODEL"], device="cpu").to(dtype)
app = Flask(__name__)


@app.post("/embed")
def embed():
    return jsonify(embedding=model.encode(request.get_json()["text"]).tolist())
