/// <reference lib="webworker" />
// Keeps the page itself, so that it opens without a network. Messages are none of its business: the outbox keeps those.
export {};

declare const self: ServiceWorkerGlobalScope;

/** The build puts the bundle's version here. A new one brings a new worker, and that a new cache. */
const VERSION = "__VERSION__";
const CACHE = `holdfast ${VERSION}`;
const PAGE = "/";
const FILES = [PAGE, `/web/chat.js?v=${VERSION}`, `/web/chat.css?v=${VERSION}`, "/web/icon.svg"];
/** How long the network may take before the page that is kept is shown. */
const PAGE_MS = 2_000;

self.addEventListener("install", (event) => {
  event.waitUntil(
    caches
      .open(CACHE)
      .then((cache) => cache.addAll(FILES))
      .then(() => self.skipWaiting()),
  );
});

self.addEventListener("activate", (event) => {
  const old = (name: string) => name.startsWith("holdfast ") && name !== CACHE;
  event.waitUntil(
    caches
      .keys()
      .then((names) => Promise.all(names.filter(old).map((name) => caches.delete(name))))
      .then(() => self.clients.claim()),
  );
});

self.addEventListener("fetch", (event) => {
  const { method, url } = event.request;
  const { origin, pathname } = new URL(url);
  if (method !== "GET" || origin !== self.location.origin) return;
  if (pathname === PAGE) event.respondWith(page(event.request));
  else if (pathname.startsWith("/web/")) event.respondWith(file(event.request));
});

async function page(request: Request): Promise<Response> {
  const kept = await caches.match(PAGE, { cacheName: CACHE });
  if (!kept) return fetch(request);
  const late = new Promise<Response>((resolve) => setTimeout(() => resolve(kept), PAGE_MS));
  return Promise.race([fetch(request).catch(() => kept), late]);
}

async function file(request: Request): Promise<Response> {
  return (await caches.match(request, { cacheName: CACHE })) ?? fetch(request);
}

/** A click on a notification leads to its chat. */
self.addEventListener("notificationclick", (event) => {
  event.notification.close();
  const hash = `#${encodeURIComponent(String(event.notification.data ?? ""))}`;
  const show = async () => {
    const [open] = await self.clients.matchAll({ type: "window" });
    if (!open) return self.clients.openWindow(`/${hash}`);
    open.postMessage({ hash });
    return open.focus();
  };
  event.waitUntil(show());
});
