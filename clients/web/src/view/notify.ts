import type { Message } from "@holdfast/client";
import type { Hub } from "../model/hub";
import { preferences } from "./preferences";

/** Shows that a message has come, if nobody looks at this page. */
export function notify({ chatId, senderId, content }: Message, hub: Hub): void {
  if (!preferences.state.notifications || document.visibilityState === "visible") return;
  if (!("Notification" in window) || Notification.permission !== "granted") return;
  // One a chat, over all tabs.
  const options = { body: content || "An image", tag: `holdfast ${chatId}`, icon: "/web/icon.svg", data: chatId };
  const title = hub.name(senderId);
  void show(title, options).catch(() => {});
}

async function show(title: string, options: NotificationOptions): Promise<void> {
  const worker = await navigator.serviceWorker?.getRegistration();
  if (worker) await worker.showNotification(title, options);
  else new Notification(title, options);
}

/** Asks the user, if that is still to be asked. */
export async function allowNotifications(): Promise<boolean> {
  if (!("Notification" in window)) return false;
  return (await Notification.requestPermission()) === "granted";
}
