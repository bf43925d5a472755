// A load for the benchmark: compiled JavaScript, regular expressions, sorting, garbage, and C++ beneath. Never ends.
"use strict";
const crypto = require("crypto");
const zlib = require("zlib");

function recurse(left, seed) {
  return left === 0 ? seed : (recurse(left - 1, (seed * 31 + left) % 65521) + 1) % 65521;
}

function documents(seed) {
  const records = [];
  for (let i = 0; i < 300; i++)
    records.push({ id: (seed * i) % 977, name: `name ${i}`, tags: [String(i), "x".repeat(i % 20)] });
  return records;
}

function work(seed) {
  const records = documents(seed).sort((a, b) => a.id - b.id);
  const text = JSON.stringify(records);
  const words = text.replace(/[a-z]+ (\d+)/g, (_, digits) => digits + digits);
  const digest = crypto.createHash("sha256").update(words).digest("hex");
  const packed = zlib.deflateSync(Buffer.from(words), { level: 1 });
  return recurse(40, seed) + JSON.parse(text).length + digest.length + packed.length;
}

let seed = 1;
function turn() {
  for (let i = 0; i < 20; i++) seed = (seed + work(seed)) % 65521;
  setImmediate(turn);
}
turn();
