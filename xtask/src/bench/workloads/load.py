# A load for the benchmark: what Python programs do, in C code that calls back into the interpreter. Never ends.
import hashlib
import json
import re


def recurse(left):
    return 0 if left == 0 else 1 + recurse(left - 1)


def documents(seed):
    return [{"id": seed * i % 977, "name": f"name {i}", "tags": [str(i), "x" * (i % 20)]} for i in range(200)]


def work(seed):
    records = documents(seed)
    records.sort(key=lambda record: record["id"])
    text = json.dumps(records, indent=1)
    records = json.loads(text, object_hook=lambda record: dict(sorted(record.items())))
    words = re.sub(r"[a-z]+ (\d+)", lambda match: match.group(1) * 2, text)
    digest = hashlib.sha256(words.encode()).hexdigest()
    return recurse(40) + len(records) + len(digest) + sum(map(lambda word: len(word), words.split()))


seed = 1
while True:
    seed += work(seed) % 7 + 1
