// Last step of the web build (a Trunk post_build hook): the stylesheet, the content security
// policy and the service worker's file list. Works on Trunk's staging directory only.
import { createHash } from 'node:crypto';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { brotliCompressSync, constants } from 'node:zlib';
import { cutDown } from './fonts.mjs';
import { files, seal } from './offline.mjs';
import { patternfly } from './patternfly.mjs';

const root = join(dirname(fileURLToPath(import.meta.url)), '../..');
const staging = process.env.TRUNK_STAGING_DIR;
if (!staging) throw new Error('TRUNK_STAGING_DIR is not set: run this through Trunk');

// The classes in use are those whose names stand in what was built.
const built = await files(staging);
const texts = await Promise.all(
  built.filter((f) => /\.(wasm|html|css|js)$/.test(f)).map((f) => readFile(join(staging, f), 'latin1')),
);
// Icons are named by their sources: the component library's list of all icons is built in, too.
const sources = (await files(join(root, 'web/src'))).filter((f) => f.endsWith('.rs'));
const written = await Promise.all(sources.map((f) => readFile(join(root, 'web/src', f), 'utf8')));
const { css, fonts } = await patternfly(
  join(root, 'node_modules/@patternfly/patternfly'),
  texts.join('\n'),
  written.join('\n'),
);
await writeFile(join(staging, 'patternfly.css'), css);
await mkdir(join(staging, 'fonts'), { recursive: true });
for (const font of fonts) await writeFile(join(staging, font.to), await cutDown(font.from, css));

// Scripts only from here, and nothing but this origin may be spoken to.
const index = join(staging, 'index.html');
let html = await readFile(index, 'utf8');
const hashes = [...html.matchAll(/<script(?![^>]*\ssrc=)[^>]*>([\s\S]*?)<\/script>/g)].map(
  ([, body]) => `'sha256-${createHash('sha256').update(body).digest('base64')}'`,
);
const policy = [
  "default-src 'none'",
  `script-src 'self' 'wasm-unsafe-eval' ${hashes.join(' ')}`,
  "worker-src 'self'",
  "style-src 'self' 'unsafe-inline'",
  "img-src 'self' data: blob:",
  "font-src 'self'",
  "connect-src 'self'",
  "manifest-src 'self'",
  "base-uri 'none'",
  "form-action 'none'",
].join('; ');
html = html.replace(/(<meta charset="?utf-8"?\s*\/?>)/i, `$1<meta http-equiv="Content-Security-Policy" content="${policy}">`);
if (!html.includes('Content-Security-Policy')) throw new Error('index.html has no place for the policy');
await writeFile(index, html);

// Everything that was built works offline.
await seal(staging);

// Beside each text and wasm file its compressed form, for servers that send it as it is.
if (process.env.TRUNK_PROFILE === 'release') {
  for (const f of (await files(staging)).filter((f) => /\.(html|css|js|wasm|svg|webmanifest)$/.test(f))) {
    const plain = await readFile(join(staging, f));
    const packed = brotliCompressSync(plain, {
      params: {
        [constants.BROTLI_PARAM_QUALITY]: constants.BROTLI_MAX_QUALITY,
        [constants.BROTLI_PARAM_SIZE_HINT]: plain.length,
        [constants.BROTLI_PARAM_LGWIN]: constants.BROTLI_MAX_WINDOW_BITS,
      },
    });
    await writeFile(join(staging, `${f}.br`), packed);
  }
}
