// What every browser test needs: the served site, Chromium with write permission, real files
// dropped on the page, and qemu-img as the judge.
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { createReadStream, existsSync, readFileSync, statSync } from 'node:fs';
import { mkdir, mkdtemp, rm, stat, writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { tmpdir } from 'node:os';
import { basename, dirname, extname, join, normalize } from 'node:path';
import { fileURLToPath } from 'node:url';
import { chromium } from 'playwright-core';

/** The built site. */
export const DIST = join(dirname(fileURLToPath(import.meta.url)), '../../dist');
const TYPES = {
  '.html': 'text/html; charset=utf-8',
  '.js': 'text/javascript',
  '.css': 'text/css',
  '.wasm': 'application/wasm',
  '.svg': 'image/svg+xml',
  '.png': 'image/png',
  '.woff2': 'font/woff2',
  '.webmanifest': 'application/manifest+json',
};

/**
 * Serves `dist/` on loopback, for when BACKCHAIN_URL does not say where the site is. `sent` lists
 * what was asked for: `{ path, bytes }`, compressed where the build has it so.
 */
export async function serve(dist = DIST) {
  const sent = [];
  if (!existsSync(join(dist, 'index.html'))) {
    throw new Error(`${dist} holds no site: run "cargo xtask build" first`);
  }
  const server = createServer(async (request, response) => {
    const path = decodeURIComponent(new URL(request.url, 'http://x').pathname);
    const file = join(dist, normalize(path.endsWith('/') ? `${path}index.html` : path));
    const found = file.startsWith(dist) && (await stat(file).catch(() => null));
    if (!found?.isFile()) {
      response.writeHead(404).end();
      return;
    }
    const brotli = /\bbr\b/.test(request.headers['accept-encoding'] ?? '');
    const packed = brotli && (await stat(`${file}.br`).catch(() => null));
    const bytes = packed ? packed.size : found.size;
    response.writeHead(200, {
      'content-type': TYPES[extname(file)] ?? 'application/octet-stream',
      'content-length': bytes,
      ...(packed && { 'content-encoding': 'br' }),
    });
    sent.push({ path, bytes });
    createReadStream(packed ? `${file}.br` : file).pipe(response);
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    url: `http://127.0.0.1:${server.address().port}/`,
    sent,
    close: () => new Promise((resolve) => { server.closeAllConnections(); server.close(resolve); }),
  };
}

/** What Chromium is started with. */
export const FLAGS = [
  '--headless=new', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
  '--disable-background-networking', '--disable-component-update', '--disable-sync',
  '--disable-dev-shm-usage',
];

/** A scratch directory, a browser of its own with the write permission given, and a page. */
export async function start({ write = 1, viewport = { width: 1280, height: 860 }, colorScheme = 'light', serviceWorkers = 'allow', reducedMotion = null, site: served } = {}) {
  const dir = await mkdtemp(join(tmpdir(), 'backchain-browser-'));
  const profile = join(dir, 'profile');
  await mkdir(join(profile, 'Default'), { recursive: true });
  await writeFile(
    join(profile, 'Default/Preferences'),
    JSON.stringify({ profile: { default_content_setting_values: { file_system_write_guard: write, file_system_read_guard: 1 } } }),
  );
  const site = served ?? (process.env.BACKCHAIN_URL ? { url: process.env.BACKCHAIN_URL, close: async () => {} } : await serve());
  const context = await chromium.launchPersistentContext(profile, {
    executablePath: process.env.BACKCHAIN_CHROMIUM ?? '/usr/bin/chromium',
    headless: true,
    args: FLAGS,
    viewport,
    colorScheme,
    acceptDownloads: true,
    serviceWorkers,
    reducedMotion,
  });
  const page = context.pages()[0] ?? (await context.newPage());
  page.setDefaultTimeout(30_000);
  const messages = [];
  page.on('console', (m) => messages.push(`${m.type()}: ${m.text()}`));
  page.on('pageerror', (e) => messages.push(`pageerror: ${e.message}`));
  await page.goto(site.url);
  await page.waitForSelector('[data-testid="demo"]');
  return {
    page, context, dir, messages, site,
    async close() {
      await context.close();
      await site.close();
      await rm(dir, { recursive: true, force: true });
    },
  };
}

/** Drops files or folders of the local disk on the page, as a person does. */
export async function drop(page, paths) {
  const session = await page.context().newCDPSession(page);
  const data = { items: [], files: [paths].flat(), dragOperationsMask: 1 };
  for (const type of ['dragEnter', 'dragOver', 'drop']) {
    await session.send('Input.dispatchDragEvent', { type, x: 200, y: 300, data });
  }
  await session.detach();
}

/** The drawn layers: name -> { backing, state }. */
export async function nodes(page) {
  return Object.fromEntries(
    await page.$$eval('[data-testid="node"]', (all) =>
      all.map((n) => [n.dataset.name, { backing: n.dataset.backing, state: n.dataset.state }]),
    ),
  );
}

/** Waits until the page draws exactly these layers, given as name -> backing. */
export async function waitForChain(page, expected) {
  await page.waitForFunction(
    (wanted) => {
      const drawn = [...document.querySelectorAll('[data-testid="node"]')];
      return (
        drawn.length === Object.keys(wanted).length &&
        drawn.every((n) => wanted[n.dataset.name] === n.dataset.backing)
      );
    },
    expected,
  ).catch(async (error) => {
    throw new Error(`wanted ${JSON.stringify(expected)}, drawn ${JSON.stringify(await nodes(page))}: ${error.message}`);
  });
}

/** Which menu an operation is in; the others are at hand. */
const MENUS = {
  overlay: 'snapshots', 'go-back': 'snapshots', snapshot: 'snapshots', revert: 'snapshots',
  'delete-snapshot': 'snapshots', resize: 'change', repair: 'change', amend: 'change',
  bitmap: 'change', create: 'new', export: 'new',
};

/** Fills in an operation's form; `top` and `base` are file names. */
export async function choose(page, op, { top, base, unsafe, method, active } = {}) {
  if (MENUS[op]) await page.click(`[data-testid="menu-${MENUS[op]}"]`);
  await page.click(`[data-testid="op-${op}"]`);
  if (top !== undefined) await page.selectOption('[data-testid="top"]', top);
  if (base !== undefined) await page.selectOption('[data-testid="base"]', base);
  if (method !== undefined) await page.selectOption('[data-testid="method"]', method);
  if (active !== undefined) await page.selectOption('[data-testid="active"]', active);
  if (unsafe !== undefined) await page.setChecked('[data-testid="unsafe"]', unsafe);
}

/** Runs the chosen operation and returns its result: { status, text }. */
export async function run(page, { timeout = 60_000 } = {}) {
  await page.waitForSelector('[data-testid="preview"][data-ready="true"]');
  await page.click('[data-testid="run"]');
  return result(page, timeout);
}

export async function result(page, timeout = 60_000) {
  const shown = await page.waitForSelector('[data-testid="result"]', { timeout });
  return { status: await shown.getAttribute('data-status'), text: (await shown.innerText()).trim() };
}

// ---- qemu-img, the judge ------------------------------------------------------------------

export function qemuImg(...args) {
  return execFileSync('qemu-img', args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
}

export function qemuIo(file, format, ...commands) {
  return execFileSync('qemu-io', ['-f', format, ...commands.flatMap((c) => ['-c', c]), file], {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'pipe'],
  });
}

export const fileSize = (file) => statSync(file).size;

export const diskSize = (file) => statSync(file).blocks * 512;

export const sha256 = (file) => createHash('sha256').update(readFileSync(file)).digest('hex');

export const backingOf = (file) => {
  const name = JSON.parse(qemuImg('info', '--output=json', file))['backing-filename'];
  return name === undefined ? '' : basename(name);
};

/** The image is sound: no corruptions, no leaks. */
export function check(file) {
  qemuImg('check', file);
}

/** The image reads the same as the raw copy taken before. */
export function same(file, format, raw) {
  qemuImg('compare', '-f', format, '-F', 'raw', file, raw);
}
