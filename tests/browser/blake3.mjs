// BLAKE3 of bytes, as its paper has it: slow and independent, to judge digests with.
const IV = [0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19];
const ORDER = [2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8];
const MIXED = [[0, 4, 8, 12], [1, 5, 9, 13], [2, 6, 10, 14], [3, 7, 11, 15], [0, 5, 10, 15], [1, 6, 11, 12], [2, 7, 8, 13], [3, 4, 9, 14]];
const [CHUNK_START, CHUNK_END, PARENT, ROOT] = [1, 2, 4, 8];
const CHUNK = 1024;

/** The order of the message's words in each of the seven rounds. */
const ROUNDS = [[...ORDER.keys()]];
while (ROUNDS.length < 7) ROUNDS.push(ORDER.map((i) => ROUNDS.at(-1)[i]));

const turn = (x, n) => (x >>> n) | (x << (32 - n));

function compress(cv, words, counter, length, flags) {
  const v = Int32Array.of(...cv, ...IV.slice(0, 4), counter, Math.floor(counter / 2 ** 32), length, flags);
  for (const round of ROUNDS) {
    for (let i = 0; i < 8; i++) {
      const [a, b, c, d] = MIXED[i];
      v[a] += v[b] + words[round[2 * i]];
      v[d] = turn(v[d] ^ v[a], 16);
      v[c] += v[d];
      v[b] = turn(v[b] ^ v[c], 12);
      v[a] += v[b] + words[round[2 * i + 1]];
      v[d] = turn(v[d] ^ v[a], 8);
      v[c] += v[d];
      v[b] = turn(v[b] ^ v[c], 7);
    }
  }
  return v.slice(0, 8).map((x, i) => x ^ v[i + 8]);
}

function chunk(bytes, counter, last) {
  let cv = IV;
  const blocks = Math.max(1, Math.ceil(bytes.length / 64));
  for (let i = 0; i < blocks; i++) {
    const part = bytes.subarray(i * 64, i * 64 + 64);
    const block = new Uint8Array(64);
    block.set(part);
    const flags = (i === 0 ? CHUNK_START : 0) | (i === blocks - 1 ? CHUNK_END | last : 0);
    cv = compress(cv, new Int32Array(block.buffer), counter, part.length, flags);
  }
  return cv;
}

function tree(bytes, counter, last) {
  if (bytes.length <= CHUNK) return chunk(bytes, counter, last);
  let left = CHUNK;
  while (left * 2 < bytes.length) left *= 2;
  const words = [...tree(bytes.subarray(0, left), counter, 0), ...tree(bytes.subarray(left), counter + left / CHUNK, 0)];
  return compress(IV, words, 0, 64, PARENT | last);
}

/** The digest in hexadecimal digits. */
export const blake3 = (bytes) => Buffer.from(Int32Array.from(tree(bytes, 0, ROOT)).buffer).toString('hex');
