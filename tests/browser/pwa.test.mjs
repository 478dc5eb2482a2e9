// The app without a network, and from one version to the next: a copy of the site of its own,
// on a server that can be stopped.
import assert from 'node:assert/strict';
import { afterEach, beforeEach, test } from 'node:test';
import { appendFile, cp, mkdtemp, rm } from 'node:fs/promises';
import { createServer } from 'node:http';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { seal } from '../../web/build/offline.mjs';
import * as h from './harness.mjs';

const DIST = join(dirname(fileURLToPath(import.meta.url)), '../../dist');
let dir;
let sessions;

beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'backchain-pwa-'));
  sessions = [];
});
afterEach(async () => {
  for (const session of sessions) await session.close();
  await rm(dir, { recursive: true, force: true });
});

const at = (name) => join(dir, name);

async function start(options) {
  const session = await h.start(options);
  sessions.push(session);
  return session;
}

/** A browser on a copy of the site. */
async function copied() {
  // Without the compressed forms, which would be those of the version before.
  await cp(DIST, at('site'), { recursive: true, filter: (file) => !file.endsWith('.br') });
  const site = await h.serve(at('site'));
  const session = await start({ site });
  await offlineReady(session.page);
  return session;
}

const offlineReady = (page) =>
  page.waitForFunction(async () => (await navigator.serviceWorker.ready).active?.state === 'activated' && navigator.serviceWorker.controller);

const build = (page) => page.evaluate(() => document.documentElement.dataset.build);

/** Makes another version of the copied site. */
async function release() {
  await appendFile(at('site/boot.js'), '\n// Another version.\n');
  return seal(at('site'));
}

function pair() {
  h.qemuImg('create', '-q', '-f', 'qcow2', at('base.qcow2'), '16M');
  h.qemuIo(at('base.qcow2'), 'qcow2', 'write -P 1 0 4M');
  h.qemuImg('create', '-q', '-f', 'qcow2', '-b', 'base.qcow2', '-F', 'qcow2', at('top.qcow2'));
  h.qemuIo(at('top.qcow2'), 'qcow2', 'write -P 2 2M 4M');
}

test('with the server stopped, the app loads, opens files and commits', async () => {
  const { page, site, messages } = await copied();
  await site.close();
  pair();
  h.qemuImg('convert', '-O', 'raw', at('top.qcow2'), at('before'));
  await page.reload();
  await page.waitForSelector('[data-testid="demo"]');
  await h.drop(page, [at('base.qcow2'), at('top.qcow2')]);
  await h.waitForChain(page, { 'base.qcow2': '', 'top.qcow2': 'base.qcow2' });
  await h.choose(page, 'commit', { top: 'top.qcow2', base: 'base.qcow2' });
  const result = await h.run(page);
  assert.equal(result.status, 'done', result.text);
  h.check(at('base.qcow2'));
  h.same(at('base.qcow2'), 'qcow2', at('before'));

  // Every other page is there as well, and a new tab needs no server either.
  for (const [hash, title] of [['#/learn', 'Learn'], ['#/settings', 'Settings'], ['#/about', 'About']]) {
    await page.goto(site.url + hash);
    await page.waitForFunction((wanted) => document.title.startsWith(wanted) && document.querySelector('h1'), title);
  }
  const other = await page.context().newPage();
  await other.goto(site.url);
  await other.click('[data-testid="demo"]');
  await other.waitForSelector('[data-name="Snap-4.qcow2"]');
  await other.close();
  assert.deepEqual(messages.filter((m) => /^(error|pageerror)|panicked/.test(m)), []);
});

test('a new version is offered, and the old one stays until it is accepted', async () => {
  const { page, site } = await copied();
  const first = await build(page);
  const second = await release();
  assert.notEqual(second, first);
  await page.reload();
  await page.waitForSelector('[data-testid="update"]');
  assert.equal(await build(page), first);
  // It is announced: the notice appeared within a live region.
  assert.equal(await page.$eval('[data-testid="update"]', (e) => e.closest('[aria-live]').getAttribute('aria-live')), 'polite');
  // Put off, and offered again next time; still the old version, also without the server.
  await page.click('[data-testid="update-later"]');
  await page.waitForSelector('[data-testid="update"]', { state: 'detached' });
  await page.reload();
  await page.waitForSelector('[data-testid="update"]');
  assert.equal(await build(page), first);

  // Another tab holds the old version: nothing changes under it.
  const other = await page.context().newPage();
  await other.goto(site.url);
  await other.waitForSelector('[data-testid="update"]');
  await page.click('[data-testid="update-accept"]');
  await page.waitForFunction(() => /another window/.test(document.querySelector('[data-testid="update"]').textContent));
  assert.equal(await build(other), first);
  await other.close();

  await page.click('[data-testid="update-accept"]');
  await page.waitForFunction((wanted) => document.documentElement.dataset.build === wanted, second);
  await page.waitForSelector('[data-testid="demo"]');
  assert.equal(await page.$('[data-testid="update"]'), null);
  // The new one is whole: it needs no server, and nothing is left of the old one.
  await site.close();
  await page.reload();
  await page.click('[data-testid="demo"]');
  await page.waitForSelector('[data-name="Snap-4.qcow2"]');
  assert.equal(await build(page), second);
  assert.deepEqual(await page.evaluate(() => caches.keys()), [`backchain-${second}`]);
});

test('a new version cannot be taken while an operation runs', async () => {
  const { page } = await copied();
  h.qemuImg('create', '-q', '-f', 'qcow2', at('base.qcow2'), '2G');
  h.qemuImg('create', '-q', '-f', 'qcow2', '-b', 'base.qcow2', '-F', 'qcow2', at('top.qcow2'));
  h.qemuIo(at('top.qcow2'), 'qcow2', 'write -P 5 0 400M');
  await release();
  await page.reload();
  await page.waitForSelector('[data-testid="update"]');
  await h.drop(page, [at('base.qcow2'), at('top.qcow2')]);
  await h.waitForChain(page, { 'base.qcow2': '', 'top.qcow2': 'base.qcow2' });
  await h.choose(page, 'commit', { top: 'top.qcow2', base: 'base.qcow2' });
  await page.waitForSelector('[data-testid="preview"][data-ready="true"]');
  await page.click('[data-testid="run"]');
  await page.waitForSelector('[data-testid="progress"]');
  await page.waitForSelector('[data-testid="update-accept"][disabled]');
  await page.click('[data-testid="cancel"]');
  await h.result(page);
  await page.waitForSelector('[data-testid="update-accept"]:not([disabled])');
});

test('a file that is not of the version is not taken', async () => {
  const { page, site } = await copied();
  const first = await build(page);
  await release();
  // Half a release: one file is of yet another version.
  await appendFile(at('site/worker.js'), '\n// Too new.\n');
  await page.reload();
  await page.evaluate(async () => {
    const registration = await navigator.serviceWorker.ready;
    await registration.update().catch(() => {});
  });
  await page.waitForFunction(async () => {
    const registration = await navigator.serviceWorker.ready;
    return !registration.installing && !registration.waiting;
  });
  assert.equal(await page.$('[data-testid="update"]'), null);
  await site.close();
  await page.reload();
  await page.waitForSelector('[data-testid="demo"]');
  assert.equal(await build(page), first);
});

test('Chromium finds nothing that keeps the app from being installed', async () => {
  const { page, context } = await start();
  await offlineReady(page);
  const cdp = await context.newCDPSession(page);
  const { installabilityErrors } = await cdp.send('Page.getInstallabilityErrors');
  // The one reason left is this test's own: its browser is incognito in part of its profile.
  assert.deepEqual(installabilityErrors.map((e) => e.errorId).filter((id) => id !== 'in-incognito'), []);
  const { errors, data } = await cdp.send('Page.getAppManifest');
  assert.deepEqual(errors, []);
  const manifest = JSON.parse(data);
  assert.deepEqual(manifest.icons.map((i) => i.purpose).sort(), ['any', 'any', 'any', 'maskable']);
  for (const icon of manifest.icons) assert.equal((await page.request.get(new URL(icon.src, page.url()).href)).status(), 200);
  assert.deepEqual(Object.values(manifest.file_handlers[0].accept).flat().sort(), ['.img', '.qcow2', '.raw']);
});

test('files opened from the desktop are shown', async () => {
  pair();
  const { page, context, site } = await start();
  // What the system would hand over; the handles are real ones, of files dropped before.
  await context.addInitScript(() => {
    window.addEventListener('drop', async (event) => {
      if (!window.catching) return;
      event.stopImmediatePropagation();
      event.preventDefault();
      const handles = await Promise.all([...event.dataTransfer.items].map((item) => item.getAsFileSystemHandle()));
      window.consumer({ files: handles });
    }, { capture: true });
    Object.defineProperty(window, 'launchQueue', { value: { setConsumer: (consumer) => { window.consumer = consumer; } } });
  });
  await page.goto(`${site.url}#/settings`);
  await page.reload();
  await page.waitForFunction(() => window.consumer);
  await page.evaluate(() => { window.catching = true; window.addEventListener('dragover', (e) => e.preventDefault()); });
  await h.drop(page, [at('base.qcow2'), at('top.qcow2')]);
  await h.waitForChain(page, { 'base.qcow2': '', 'top.qcow2': 'base.qcow2' });
  assert.equal(new URL(page.url()).hash, '#/');
  // They are what files given in the page are: an operation writes them in place.
  await h.choose(page, 'commit', { top: 'top.qcow2', base: 'base.qcow2' });
  assert.equal((await h.run(page)).status, 'done');
  h.check(at('base.qcow2'));
});

test('over a whole session no request leaves the origin, and none could', async () => {
  pair();
  const { page, context, site } = await start();
  const asked = [];
  context.on('request', (request) => asked.push(request.url()));
  await page.goto(site.url);
  await page.waitForSelector('[data-testid="privacy"]');
  await offlineReady(page);
  await h.drop(page, [at('base.qcow2'), at('top.qcow2')]);
  await h.waitForChain(page, { 'base.qcow2': '', 'top.qcow2': 'base.qcow2' });
  await page.click('[data-name="top.qcow2"]');
  for (const lens of ['map', 'disk', 'bytes']) {
    await page.click(`[data-testid="lens-${lens}"]`);
    await page.waitForSelector(`[data-testid="look-${lens}"]`);
  }
  await h.choose(page, 'commit', { top: 'top.qcow2', base: 'base.qcow2' });
  assert.equal((await h.run(page)).status, 'done');
  for (const nav of ['nav-learn', 'nav-settings', 'nav-about', 'nav-files']) await page.click(`[data-testid="${nav}"]`);
  const own = new URL(site.url).origin;
  const foreign = asked.filter((url) => !url.startsWith(own) && !/^(blob|data):/.test(url));
  assert.deepEqual(foreign, []);
  assert.ok(asked.length > 5, `${asked.length} requests were seen`);

  const elsewhere = await h.serve(DIST);
  try {
    const refused = await page.evaluate(async (url) => {
      const blocked = new Promise((resolve) => {
        document.addEventListener('securitypolicyviolation', (e) => resolve(e.effectiveDirective), { once: true });
      });
      const answer = await fetch(url, { mode: 'no-cors' }).then(() => 'answered', () => 'refused');
      return [answer, await blocked];
    }, elsewhere.url);
    assert.deepEqual(refused, ['refused', 'connect-src']);
  } finally {
    await elsewhere.close();
  }
});
