// What makes the site work offline: its version, and the service worker's list of files.
import { createHash } from 'node:crypto';
import { readdir, readFile, writeFile } from 'node:fs/promises';
import { join, relative } from 'node:path';

/** The files below a directory, by path, sorted. */
export async function files(dir) {
  const entries = await readdir(dir, { withFileTypes: true, recursive: true });
  return entries
    .filter((e) => e.isFile())
    .map((e) => relative(dir, join(e.parentPath ?? e.path, e.name)).replaceAll('\\', '/'))
    .sort();
}

/** Names the version in the page and lists every file in the service worker. */
export async function seal(dir) {
  const list = (await files(dir)).filter((f) => f !== 'sw.js' && f !== 'index.html');
  const contents = await Promise.all(list.map((f) => readFile(join(dir, f))));
  const index = join(dir, 'index.html');
  const unnamed = (await readFile(index, 'utf8')).replace(/ data-build="[^"]*"/, '');
  const hash = createHash('sha256').update(unnamed);
  list.forEach((f, nth) => hash.update(f).update(contents[nth]));
  const version = hash.digest('hex').slice(0, 12);
  const html = unnamed.replace(/<html/, `<html data-build="${version}"`);
  if (html === unnamed) throw new Error('index.html has no place for the version');
  await writeFile(index, html);

  const integrity = (bytes) => `sha256-${createHash('sha256').update(bytes).digest('base64')}`;
  const all = { './': integrity(html), ...Object.fromEntries(list.map((f, nth) => [f, integrity(contents[nth])])) };
  const sw = join(dir, 'sw.js');
  const before = await readFile(sw, 'utf8');
  const after = before
    .replace(/^const VERSION = .*;$/m, () => `const VERSION = ${JSON.stringify(version)};`)
    .replace(/^const FILES = .*;$/m, () => `const FILES = ${JSON.stringify(all)};`);
  if (!after.includes(version) || !after.includes('sha256-')) throw new Error('sw.js has no place for the list');
  await writeFile(sw, after);
  return version;
}
