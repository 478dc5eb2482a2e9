// Every page is judged by axe-core, in the light and in the dark theme; and the keyboard goes where
// a change of page leads.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import axe from 'axe-core';
import * as h from './harness.mjs';

let session;
let page;
let pages = 0;
const passed = new Set();

before(async () => {
  session = await h.start({ reducedMotion: 'reduce' });
  page = session.page;
});
after(() => session?.close());

const byId = (id) => `[data-testid="${id}"]`;

/** What axe finds serious or critical on the page as it is, one line for each element. */
async function judge(where) {
  // By the debugger's door: the page's policy lets no script be added to it.
  if (!(await page.evaluate(() => 'axe' in window))) await page.evaluate(axe.source);
  const found = await page.evaluate(async () => {
    // Colours on their way from one theme to the other are nobody's.
    await Promise.all(document.getAnimations().filter((a) => a instanceof CSSTransition).map((a) => a.finished.catch(() => {})));
    const rules = { 'label-content-name-mismatch': { enabled: true } };
    const { passes, violations } = await window.axe.run(document, { rules, resultTypes: ['violations'] });
    return {
      passes: passes.map((rule) => rule.id),
      violations: violations
        .filter((rule) => ['serious', 'critical'].includes(rule.impact))
        .flatMap((rule) => rule.nodes.map((node) => `${rule.id}: ${node.target.join(' ')}: ${node.failureSummary.replace(/\s+/g, ' ')}`)),
    };
  });
  pages += 1;
  found.passes.forEach((rule) => passed.add(rule));
  assert.ok(found.passes.length > 0, `${where}: axe judged nothing`);
  return found.violations.map((violation) => `${where}: ${violation}`);
}

/** Walks through the app and names every place to be judged. */
async function walk(look) {
  await page.goto(`${session.site.url}#/`);
  await page.reload();
  await page.waitForSelector(byId('demo'));
  await look('welcome');
  await page.click(byId('demo'));
  await page.waitForFunction(() => document.querySelectorAll('[data-testid="node"]').length === 5);
  await look('chain');
  await page.click('[data-name="Snap-2.qcow2"]');
  await page.waitForSelector(byId('details'));
  await look('details');
  for (const lens of ['map', 'disk', 'bytes']) {
    await page.click(byId(`lens-${lens}`));
    const drawn = lens === 'bytes' ? byId('hex') : `${byId(`${lens}-canvas`)}[data-ready="true"]`;
    await page.waitForSelector(drawn);
    await look(lens);
  }
  await page.click(byId('lens-bytes'));
  await h.choose(page, 'pull', { top: 'Snap-4.qcow2' });
  await page.waitForSelector(`${byId('preview')}[data-ready="true"]`);
  await look('pull');
  await h.choose(page, 'commit', { top: 'Snap-3.qcow2', base: 'RootBase.qcow2' });
  await page.waitForSelector(`${byId('preview')}[data-ready="true"]`);
  await look('commit');
  const result = await h.run(page);
  assert.equal(result.status, 'done', result.text);
  await look('done');
  for (const name of ['learn', 'settings', 'about']) {
    await page.click(byId(`nav-${name}`));
    await page.waitForFunction((title) => document.title.toLowerCase().startsWith(title), name);
    await look(name);
  }
  await page.goto(`${session.site.url}#/learn/blockcommit-fig-3`);
  await page.waitForSelector(`${byId('workplace')}[data-ready="true"]`);
  await look('lesson');
  await page.goto(`${session.site.url}#/talk/blockcommit-fig-3/2`);
  await page.waitForSelector(`${byId('talk')}[data-slide="2"] ${byId('slide')}[data-ready="true"]`);
  await look('talk');
}

for (const colorScheme of ['light', 'dark']) {
  test(`nothing on any page is a serious barrier, in the ${colorScheme} theme`, async () => {
    await page.emulateMedia({ colorScheme, reducedMotion: 'reduce' });
    const wrong = [];
    await walk(async (where) => wrong.push(...await judge(where)));
    assert.deepEqual(wrong, []);
  });
}

test('the figure', () => {
  assert.ok(pages >= 26, `${pages} pages were judged`);
  console.log(`figure: axe: ${pages} pages, ${passed.size} rules passed, 0 serious or critical`);
});

const focused = () => page.evaluate(() => document.activeElement.tagName);

test('a change of page leads the keyboard to its title, a first load does not', async () => {
  await page.goto('about:blank');
  await page.goto(`${session.site.url}#/`);
  await page.waitForSelector(byId('demo'));
  assert.equal(await focused(), 'BODY');
  for (const name of ['learn', 'settings', 'about', 'files']) {
    await page.click(byId(`nav-${name}`));
    await page.waitForFunction((wanted) => {
      const at = document.activeElement;
      return at.tagName === 'H1' && document.title.toLowerCase().startsWith(wanted);
    }, name === 'files' ? 'backchain' : name);
  }
  // What a page shows is no other page.
  await page.click(byId('demo'));
  await page.click('[data-name="Snap-2.qcow2"]');
  await page.waitForSelector(byId('details'));
  assert.notEqual(await focused(), 'H1');
});

test('the first key leads past the bar at the top', async () => {
  await page.goto('about:blank');
  await page.goto(`${session.site.url}#/settings`);
  await page.waitForSelector(byId('theme-dark'));
  const link = page.locator(byId('skip'));
  const shown = async () => (await link.boundingBox()).y >= 0;
  assert.equal(await shown(), false);
  await page.keyboard.press('Tab');
  assert.equal(await page.evaluate(() => document.activeElement.textContent.trim()), 'Skip to content');
  assert.equal(await shown(), true);
  await page.keyboard.press('Enter');
  assert.equal(await focused(), 'H1');
  assert.match(page.url(), /#\/settings$/);
  await page.keyboard.press('Tab');
  assert.equal(await page.evaluate(() => document.activeElement.closest('main') !== null), true);
});
