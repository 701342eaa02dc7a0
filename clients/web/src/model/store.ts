import { useSyncExternalStore } from "react";

/** A value that is replaced, never changed, and whom it concerns. */
export class Store<State extends object> {
  private readonly listeners = new Set<() => void>();
  constructor(public state: State) {}

  set(change: Partial<State>): void {
    this.state = { ...this.state, ...change };
    for (const listener of [...this.listeners]) listener();
  }

  subscribe = (listener: () => void): (() => void) => {
    this.listeners.add(listener);
    return () => void this.listeners.delete(listener);
  };
}

/** A part of the state. What `select` returns has to be the same as long as nothing in it has changed. */
export function useStore<State extends object, Part>(store: Store<State>, select: (state: State) => Part): Part {
  return useSyncExternalStore(store.subscribe, () => select(store.state));
}
