import { Store, useStore } from "../model/store";

export interface Preferences {
  /** Show a notification for a message that comes while nobody looks. */
  notifications: boolean;
  /** Load pictures of others at once: their hosts then see this browser's address. */
  images: boolean;
}

const KEY = "holdfast preferences";

function saved(): Preferences {
  const none = { notifications: false, images: false };
  try {
    return { ...none, ...(JSON.parse(localStorage.getItem(KEY) ?? "{}") as Partial<Preferences>) };
  } catch {
    return none;
  }
}

export const preferences = new Store<Preferences>(saved());
preferences.subscribe(() => localStorage.setItem(KEY, JSON.stringify(preferences.state)));

export const usePreferences = () => useStore(preferences, (state) => state);
