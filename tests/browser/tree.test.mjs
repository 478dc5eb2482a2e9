// The tree: large ones are walked through, and what is wrong with a link is shown and mended.
import assert from 'node:assert/strict';
import { after, afterEach, before, beforeEach, test } from 'node:test';
import { mkdtemp, readdir, rm, utimes } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as h from './harness.mjs';

let session;
let page;
let dir;

before(async () => {
  session = await h.start();
  page = session.page;
});
after(() => session?.close());
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'backchain-images-'));
  await page.goto(session.site.url);
  await page.waitForSelector('[data-testid="demo"]');
  session.messages.length = 0;
});
afterEach(async () => {
  await rm(dir, { recursive: true, force: true });
  assert.deepEqual(session.messages.filter((m) => /^(error|pageerror)|panicked/.test(m)), []);
});

const at = (name) => join(dir, name);
const create = (name, ...more) => h.qemuImg('create', '-q', '-f', 'qcow2', ...more, at(name), '64M');
const on = (backing) => ['-u', '-b', backing, '-F', 'qcow2'];
const dropAll = async () => h.drop(page, (await readdir(dir)).map(at));
const drawn = () => page.$$eval('[data-testid="node"]', (all) => all.length);
const focused = () => page.evaluate(() => document.activeElement?.dataset.name);

/** 200 layers: a trunk of 10, and 50 branches on it. */
async function large() {
  create('root.qcow2');
  for (let i = 1; i < 10; i += 1) create(`trunk-${i}.qcow2`, ...on(i === 1 ? 'root.qcow2' : `trunk-${i - 1}.qcow2`));
  for (let b = 1; b <= 50; b += 1) {
    let below = b % 10 === 0 ? 'root.qcow2' : `trunk-${b % 10}.qcow2`;
    for (let i = 1; i <= (b > 40 ? 3 : 4); i += 1) {
      create(`vm${b}-${i}.qcow2`, ...on(below));
      below = `vm${b}-${i}.qcow2`;
    }
  }
  await dropAll();
  await page.waitForFunction(() => document.querySelector('[data-testid="tree-summary"]')?.textContent.startsWith('200 layers, 50 ends'));
}

test('of 200 layers only what is seen is in the document, and moving through them does not stutter', async () => {
  await large();
  await page.waitForFunction(() => document.querySelectorAll('[data-testid="bar"][data-ready="true"]').length > 5);
  assert.ok((await drawn()) < 60, `${await drawn()} drawn`);
  await page.click('[data-testid="tree-across"]');
  const sizes = await page.$eval('[data-name="root.qcow2"]', (n) => ['aria-level', 'aria-posinset', 'aria-setsize'].map((a) => n.getAttribute(a)));
  assert.deepEqual(sizes, ['1', '1', '1']);
  await page.click('[data-testid="tree-upright"]');
  await page.waitForTimeout(300);
  const figures = await page.evaluate(async () => {
    const long = [];
    const observer = new PerformanceObserver((list) => long.push(...list.getEntries().map((e) => e.duration)));
    observer.observe({ entryTypes: ['longtask'] });
    const tree = document.querySelector('[data-testid="tree"]');
    const frames = [];
    let last = performance.now();
    for (let i = 0; i < 90; i += 1) {
      if (i < 60) tree.scrollTop += 120;
      else {
        const { left, top } = tree.getBoundingClientRect();
        tree.dispatchEvent(new WheelEvent('wheel', { ctrlKey: true, deltaY: i < 75 ? 60 : -60, clientX: left + 200, clientY: top + 200, bubbles: true, cancelable: true }));
      }
      await new Promise((done) => { requestAnimationFrame(done); });
      frames.push(performance.now() - last);
      last = performance.now();
    }
    observer.disconnect();
    frames.sort((a, b) => a - b);
    return { median: frames[45], p95: frames[85], long: Math.max(0, ...long) };
  });
  console.log(`figure: tree of 200 layers, scrolling and zooming: median frame ${figures.median.toFixed(1)} ms, 95th percentile ${figures.p95.toFixed(1)} ms, longest task ${figures.long.toFixed(0)} ms`);
  assert.ok(figures.long < 300, `a task of ${figures.long} ms`);
});

test('a layer is found by its name, and the view moves there', async () => {
  await large();
  await page.keyboard.press('/');
  await page.waitForFunction(() => document.activeElement?.dataset.testid === 'tree-find');
  await page.keyboard.type('vm37');
  await page.waitForFunction(() => document.querySelector('[data-testid="tree-matches"]').textContent === '1 of 4');
  await page.waitForSelector('[data-name="vm37-1.qcow2"].layer--match');
  await page.keyboard.press('ArrowDown');
  await page.waitForFunction(() => document.activeElement?.dataset.name === 'vm37-1.qcow2');
});

test('arrow keys go along the chain, and a layer is moved onto another by keys', async () => {
  create('base.qcow2');
  create('mid.qcow2', ...on('base.qcow2'));
  create('top.qcow2', ...on('mid.qcow2'));
  create('side.qcow2', ...on('base.qcow2'));
  await dropAll();
  await page.focus('[data-name="base.qcow2"]');
  for (const [key, name] of [['End', 'top'], ['ArrowLeft', 'mid'], ['Home', 'base'], ['ArrowDown', 'side'], ['ArrowUp', 'mid']]) {
    await page.keyboard.press(key);
    await page.waitForFunction((wanted) => document.activeElement?.dataset.name === wanted, `${name}.qcow2`)
      .catch(async () => assert.fail(`${key} leads to ${await focused()}, not to ${name}`));
  }
  await page.keyboard.press('Enter');
  await page.waitForSelector('[data-name="mid.qcow2"][aria-selected="true"]');
  await page.waitForSelector('[data-name="side.qcow2"].layer--aside');
  await page.keyboard.press('End');
  await page.waitForFunction(() => document.activeElement?.dataset.name === 'top.qcow2');
  await page.keyboard.press('w');
  await page.keyboard.press('ArrowLeft');
  await page.waitForFunction(() => document.activeElement?.dataset.name === 'mid.qcow2');
  await page.keyboard.press('Enter');
  await page.waitForSelector('[data-testid="operation"]');
});

test('a link that may surprise is said and explained', async () => {
  create('base.qcow2');
  create('top.qcow2', '-b', at('base.qcow2'), '-F', 'qcow2');
  const now = Date.now() / 1000;
  await utimes(at('top.qcow2'), now - 3600, now - 3600);
  await dropAll();
  await page.waitForSelector('[data-name="top.qcow2"][data-state="ok"]');
  const badges = await page.$$eval('[data-name="top.qcow2"] [data-testid="remark"]', (all) => all.map((b) => b.textContent));
  assert.deepEqual(badges, ['absolute link', 'changed after this overlay']);
  await page.click('[data-name="top.qcow2"]');
  assert.match(await page.innerText('[data-testid="remarks"]'), /written to/);
});

test('a missing backing file is dropped on its place, and the relink is proposed', async () => {
  create('moved.qcow2');
  create('top.qcow2', ...on('gone.qcow2'));
  await h.drop(page, at('top.qcow2'));
  const ghost = await page.waitForSelector('[data-testid="ghost"]');
  const box = await ghost.boundingBox();
  const cdp = await page.context().newCDPSession(page);
  const data = { items: [], files: [at('moved.qcow2')], dragOperationsMask: 1 };
  for (const type of ['dragEnter', 'dragOver', 'drop']) {
    await cdp.send('Input.dispatchDragEvent', { type, x: box.x + 30, y: box.y + 20, data });
  }
  await page.waitForFunction(() => document.querySelector('[data-name="top.qcow2"]')?.dataset.state === 'ok');
  await page.waitForSelector('[data-testid="ghost"]', { state: 'detached' });
  assert.equal(await page.$('.veil'), null);
  await page.click('[data-name="top.qcow2"]');
  await page.click('[data-testid="relink"]');
  assert.equal((await h.run(page)).status, 'done');
  assert.equal(h.backingOf(at('top.qcow2')), 'moved.qcow2');
});
