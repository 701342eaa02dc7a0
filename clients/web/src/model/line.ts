// "Cut the line": a developer's switch. Nothing of this page reaches the gateway until it is mended, whatever the network is like.
import type { SocketLike } from "@holdfast/client";
import { io } from "socket.io-client";

const KEY = "holdfast line";
const sockets = new Set<{ end(): void }>();

/** Whether the line is cut, also after a reload of this tab. */
export const isCut = (): boolean => sessionStorage.getItem(KEY) === "cut";

export function cut(on: boolean): void {
  if (on) sessionStorage.setItem(KEY, "cut");
  else sessionStorage.removeItem(KEY);
  if (on) for (const socket of sockets) socket.end();
  // The client looks after its connection at once.
  window.dispatchEvent(new Event(on ? "offline" : "online"));
}

/** A socket that can be cut. */
export function socket(url: string, options: Record<string, unknown>): SocketLike {
  const real = io(url, options);
  const connect = real.connect.bind(real);
  real.connect = () => {
    if (!isCut()) return connect();
    for (const listener of real.listeners("connect_error"))
      queueMicrotask(() => listener(new Error("the line is cut")));
    return real;
  };
  sockets.add({ end: () => real.io.engine?.close() });
  return real as unknown as SocketLike;
}
