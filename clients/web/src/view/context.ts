import { createContext, useContext, useEffect } from "react";
import type { Hub, State } from "../model/hub";
import { useStore } from "../model/store";

export const HubContext = createContext<Hub | undefined>(undefined);

export function useHub(): Hub {
  const hub = useContext(HubContext);
  if (!hub) throw new Error("nobody is signed in");
  return hub;
}

export function useHubState<Part>(select: (state: State) => Part): Part {
  return useStore(useHub().store, select);
}

/** A user's name: what they want to be called, or their id. */
export function useName(userId: string): string {
  const hub = useHub();
  useEffect(() => hub.wantProfile(userId), [hub, userId]);
  return useHubState(({ profiles }) => profiles[userId]?.displayName) ?? userId;
}

/** What a chat is called. */
export function useTitle(chatId: string, friend: string | undefined): string {
  const hub = useHub();
  useEffect(() => (friend === undefined ? hub.wantGroup(chatId) : hub.wantProfile(friend)), [hub, chatId, friend]);
  const name = useHubState(({ profiles }) => (friend === undefined ? undefined : profiles[friend]?.displayName));
  const group = useHubState(({ groups }) => groups[chatId]?.name);
  return friend === undefined ? (group ?? "Group") : (name ?? friend);
}
