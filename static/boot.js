// Runs before the app: the theme (so the page never flashes in the wrong one), the service
// worker, and a notice where the app cannot start at all.
'use strict';
(() => {
  const root = document.documentElement;
  const dark = matchMedia('(prefers-color-scheme: dark)');
  const apply = () => {
    let chosen = null;
    try {
      chosen = localStorage.getItem('theme');
    } catch {
      // Storage may be forbidden; the system's choice is then used.
    }
    root.classList.toggle('pf-v6-theme-dark', chosen === 'dark' || (chosen !== 'light' && dark.matches));
  };
  apply();
  dark.addEventListener('change', apply);
  window.addEventListener('storage', apply);

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

  if ('serviceWorker' in navigator && window.isSecureContext) {
    window.addEventListener('load', () => {
      navigator.serviceWorker.register('sw.js').catch((error) => {
        console.info('Working without the offline copy:', error.message);
      });
    });
  }
})();
