// Keeps a whole version of the app in this browser, so that it works without a network and its
// files always belong together. Version and list are written by web/build/offline.mjs.
//
// A newer version is fetched behind the page and then waits: it takes over when the user
// accepts it, or once the app is closed everywhere.
'use strict';
const VERSION = '';
// Path -> integrity: what comes from the network is of this very version, or is not taken.
const FILES = {};
const CACHE = `backchain-${VERSION}`;
const HOME = new URL('./', self.location).pathname;

async function store() {
  const cache = await caches.open(CACHE);
  await Promise.all(
    Object.entries(FILES).map(async ([file, integrity]) => {
      // The page has just loaded most of them: the browser's own copy will do where it fits.
      const get = (mode) => fetch(new Request(file, { cache: mode, integrity }));
      const response = await get('default').catch(() => get('reload'));
      if (!response.ok) throw new Error(`${file}: status ${response.status}`);
      await cache.put(file, response);
    }),
  );
}

self.addEventListener('install', (event) => {
  event.waitUntil(
    store().catch(async (error) => {
      await caches.delete(CACHE);
      throw error;
    }),
  );
});

self.addEventListener('activate', (event) => {
  event.waitUntil(
    caches
      .keys()
      .then((keys) =>
        Promise.all(
          keys.filter((k) => k.startsWith('backchain-') && k !== CACHE).map((k) => caches.delete(k)),
        ),
      )
      .then(() => self.clients.claim()),
  );
});

// The page accepts this version. It answers with how many other windows hold the old one: as
// long as there are some, nothing changes under them.
self.addEventListener('message', (event) => {
  if (event.data !== 'accept') return;
  event.waitUntil(
    self.clients.matchAll({ type: 'window', includeUncontrolled: true }).then((all) => {
      const others = all.filter((c) => new URL(c.url).pathname.startsWith(HOME) && c.id !== event.source?.id).length;
      event.ports[0]?.postMessage(others);
      return others === 0 ? self.skipWaiting() : undefined;
    }),
  );
});

// The copy for everything, the page included: a page of one version with files of another
// would be worse than an old page.
self.addEventListener('fetch', (event) => {
  const { request } = event;
  const url = new URL(request.url);
  if (request.method !== 'GET' || url.origin !== self.location.origin) return;
  const page = request.mode === 'navigate';
  if (page && url.pathname !== HOME && url.pathname !== `${HOME}index.html`) return;
  event.respondWith(
    caches
      .match(page ? './' : request, { cacheName: CACHE, ignoreSearch: true, ignoreVary: true })
      .then((found) => found ?? fetch(request)),
  );
});
