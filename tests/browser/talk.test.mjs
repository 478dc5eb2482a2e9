// Demo mode: a lesson as slides, forth and back, with the keys that clickers send.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import * as h from './harness.mjs';

let session;
let page;

before(async () => {
  session = await h.start();
  page = session.page;
});
after(() => session?.close());

const byId = (id) => `[data-testid="${id}"]`;

async function open(lesson, slide = 1) {
  await page.goto(`${session.site.url}#/`);
  await page.goto(`${session.site.url}#/talk/${lesson}/${slide}`);
  await at(slide);
}

/** Waits for a slide, with its chain as it is to be. */
async function at(slide) {
  await page.waitForSelector(`${byId('talk')}[data-slide="${slide}"] ${byId('slide')}[data-ready="true"]`);
}

const count = () => page.getAttribute(byId('talk'), 'data-slides').then(Number);
const title = () => page.innerText(`${byId('slide')} h1`);

async function drawn() {
  const stem = (name) => name.replace(/\.\w+$/, '');
  return Object.fromEntries(
    Object.entries(await h.nodes(page)).map(([name, { backing, state }]) => [stem(name), `${stem(backing)} ${state}`]),
  );
}

/** Waits until the chain is drawn so. */
async function becomes(expected) {
  await page.waitForFunction(
    (wanted) => {
      const stem = (name) => name.replace(/\.\w+$/, '');
      const nodes = [...document.querySelectorAll('[data-testid="node"]')];
      return nodes.length === Object.keys(wanted).length
        && nodes.every((n) => wanted[stem(n.dataset.name)] === `${stem(n.dataset.backing)} ${n.dataset.state}`);
    },
    expected,
  ).catch(async (error) => { throw new Error(`${JSON.stringify(await drawn())}: ${error.message}`); });
}

const BEFORE = { RootBase: ' ok', 'Snap-1': 'RootBase ok', 'Snap-2': 'Snap-1 ok', 'Snap-3': 'Snap-2 ok', 'Snap-4': 'Snap-3 ok' };
const AFTER = { RootBase: ' ok', 'Snap-1': 'RootBase invalid', 'Snap-2': 'Snap-1 invalid', 'Snap-3': 'Snap-2 invalid', 'Snap-4': 'RootBase ok' };

test('a talk forth and back: the operation is done live, and undone', async () => {
  await open('blockcommit-fig-4');
  const slides = await count();
  assert.equal(await page.locator('.masthead').count(), 0);
  const forth = ['ArrowRight', 'Space', 'PageDown', 'ArrowDown', 'Enter'];
  const titles = [await title()];
  const commit = [];
  for (let slide = 2; slide <= slides; slide++) {
    await page.keyboard.press(forth[slide % forth.length]);
    await at(slide);
    titles.push(await title());
    if (titles.at(-1).startsWith('Commit')) commit.push(slide);
    assert.equal(await page.innerText(byId('talk-count')), `${slide} / ${slides}`);
    assert.match(page.url(), new RegExp(`#/talk/blockcommit-fig-4/${slide}$`));
    if (slide === commit[0]) await becomes(BEFORE);
    if (await page.locator(byId('slide-invalid')).count()) {
      assert.match(await page.innerText(byId('slide-invalid')), /Snap-1[\s\S]*Snap-2[\s\S]*Snap-3/);
      await becomes(AFTER);
    }
  }
  await becomes(AFTER);
  await page.keyboard.press('ArrowRight');
  assert.equal(await page.getAttribute(byId('talk'), 'data-slide'), String(slides));
  const back = ['ArrowLeft', 'PageUp', 'ArrowUp', 'Backspace'];
  for (let slide = slides - 1; slide >= 1; slide--) {
    await page.keyboard.press(back[slide % back.length]);
    await at(slide);
    assert.equal(await title(), titles[slide - 1]);
  }
  await becomes(BEFORE);
});

test('what is going to move is shown before it moves', async () => {
  await open('blockcommit-fig-3', 2);
  await becomes(BEFORE);
  await page.waitForSelector('.slide .flow');
  assert.equal(await page.locator('.slide .flow').count(), 2);
  await page.click(byId('talk-next'));
  await at(3);
  await page.waitForSelector(`${byId('slide-done')}[data-reached="true"]`);
});

test('a slide in the middle is reached by its address', async () => {
  await open('remove-method-2', 1);
  const slides = await count();
  await open('remove-method-2', slides);
  await becomes({ base: ' ok', sn1: 'base ok', sn3: 'sn1 ok' });
});

test('the engine is killed in front of everybody, and goes on', async () => {
  await open('killed-half-way');
  const slides = await count();
  const chain = { RootBase: ' ok', 'Snap-1': 'RootBase ok', Active: 'Snap-1 ok' };
  let killed = false;
  for (let slide = 2; slide <= slides; slide++) {
    const workers = page.workers();
    await page.keyboard.press('ArrowRight');
    await at(slide);
    const text = await page.innerText(byId('slide'));
    if (/Start the merge/.test(text) && (await page.locator(byId('slide-done')).count())) {
      await page.waitForFunction(() => /Killed/.test(document.querySelector('[data-testid="slide-done"]')?.innerText));
      assert.ok(workers.some((worker) => !page.workers().includes(worker)));
      await becomes(chain);
      killed = true;
    }
  }
  assert.ok(killed);
  await becomes({ RootBase: ' ok', 'Snap-1': 'RootBase invalid', Active: 'RootBase ok' });
});

test('it can be read from the back of the room', async () => {
  await open('blockcommit-fig-4', 2);
  const size = (selector) => page.$eval(selector, (e) => parseFloat(getComputedStyle(e).fontSize) * (e.currentCSSZoom ?? 1));
  assert.ok((await size('.slide__title')) >= 40);
  assert.ok((await size('.slide__text p')) >= 24);
  assert.ok((await size('.slide .layer__name')) >= 20);
});

test('works without network, and Escape leaves', async () => {
  await open('blockpull-fig-6', 1);
  await page.context().setOffline(true);
  const slides = await count();
  for (let slide = 2; slide <= slides; slide++) {
    await page.keyboard.press('PageDown');
    await at(slide);
  }
  await becomes({ Active: ' ok', RootBase: ' ok', 'Snap-1': 'RootBase ok', 'Snap-2': 'Snap-1 ok', 'Snap-3': 'Snap-2 ok' });
  await page.context().setOffline(false);
  await page.keyboard.press('Escape');
  await page.waitForSelector(`${byId('lesson')}[data-lesson="blockpull-fig-6"]`);
  assert.deepEqual(session.messages.filter((m) => /error/i.test(m)), []);
});

test('every lesson is a talk, and no slide has to be scrolled', async () => {
  await page.setViewportSize({ width: 1280, height: 720 });
  await page.goto(`${session.site.url}#/learn`);
  await page.waitForSelector(byId('lesson-link'));
  const lessons = await page.$$eval(byId('lesson-link'), (all) => all.map((one) => one.dataset.lesson));
  for (const lesson of lessons) {
    await page.goto(`${session.site.url}#/talk/${lesson}/1`);
    await at(1);
    const slides = await count();
    for (let slide = 1; slide <= slides; slide++) {
      if (slide > 1) await page.keyboard.press('ArrowRight');
      await at(slide);
      assert.equal(await page.locator(byId('problem')).count(), 0, `${lesson} ${slide}`);
      const over = await page.$eval('.slide', (e) => [e.scrollWidth - e.clientWidth, e.scrollHeight - e.clientHeight]);
      assert.deepEqual(over, [0, 0], `${lesson} ${slide}`);
    }
  }
});
