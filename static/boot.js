// Runs before the app: theme and motion (so the page never flashes in the wrong ones), the service
// worker, and a notice where the app cannot start at all.
'use strict';
(() => {
  const root = document.documentElement;
  const dark = matchMedia('(prefers-color-scheme: dark)');
  const apply = () => {
    let chosen = null;
    let motion = null;
    try {
      chosen = localStorage.getItem('theme');
      motion = localStorage.getItem('motion');
    } catch {
      // Storage may be forbidden; the system's choice is then used.
    }
    root.dataset.motion = motion ?? 'system';
    root.classList.toggle('pf-v6-theme-dark', chosen === 'dark' || (chosen !== 'light' && dark.matches));
  };
  apply();
  dark.addEventListener('change', apply);
  window.addEventListener('storage', apply);

  // The engine's worker starts while the page is still loading. The app takes it over, with
  // what it said meanwhile; where it failed, the app starts one itself and hears why.
  try {
    const worker = new Worker('worker_loader.js', { type: 'module' });
    const heard = [];
    const hear = (event) => heard.push(event.data);
    const drop = () => delete window.backchainWorker;
    worker.addEventListener('message', hear);
    worker.addEventListener('error', drop);
    window.backchainWorker = () => {
      drop();
      worker.removeEventListener('message', hear);
      worker.removeEventListener('error', drop);
      return { worker, heard };
    };
  } catch {
    // The app says what is missing.
  }

  window.backchainCrash = (message) => {
    const box = document.getElementById('crash');
    if (!box) return;
    document.getElementById('crash-message').textContent = message;
    box.hidden = false;
  };
  window.addEventListener('DOMContentLoaded', () => {
    document.getElementById('crash-reload').addEventListener('click', () => location.reload());
    if (typeof WebAssembly !== 'object') {
      window.backchainCrash('This browser has no WebAssembly, which backchain is made of.');
    }
  });

  // The offline copy. A newer version waits behind it until the user takes it: the app hears of
  // it by `backchain-update`, and takes it by `accept`.
  const update = { ready: false, accept: async () => 0 };
  window.backchainUpdate = update;
  if (!('serviceWorker' in navigator) || !window.isSecureContext) return;
  const { serviceWorker } = navigator;
  const offer = (registration) => {
    if (!registration.waiting || !serviceWorker.controller) return;
    update.ready = true;
    // Resolves to the number of other windows that must be closed first; with none it reloads.
    update.accept = () => new Promise((resolve) => {
      const worker = registration.waiting;
      if (!worker) {
        location.reload();
        return;
      }
      const { port1, port2 } = new MessageChannel();
      port1.onmessage = ({ data }) => {
        port1.close();
        if (data === 0) serviceWorker.addEventListener('controllerchange', () => location.reload(), { once: true });
        resolve(data);
      };
      worker.postMessage('accept', [port2]);
    });
    window.dispatchEvent(new Event('backchain-update'));
  };
  const HOUR = 3_600_000;
  window.addEventListener('load', async () => {
    try {
      const registration = await serviceWorker.register('sw.js', { updateViaCache: 'none' });
      offer(registration);
      registration.addEventListener('updatefound', () => {
        const coming = registration.installing;
        coming?.addEventListener('statechange', () => coming.state === 'installed' && offer(registration));
      });
      // An installed app may stay open for days.
      let asked = Date.now();
      document.addEventListener('visibilitychange', () => {
        if (document.visibilityState !== 'visible' || Date.now() - asked < HOUR) return;
        asked = Date.now();
        registration.update().catch(() => {});
      });
    } catch (error) {
      console.info('Working without the offline copy:', error.message);
    }
  });
})();
