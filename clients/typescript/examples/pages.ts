import type { Chat } from "@holdfast/client";

/** Reads back to the beginning, a page each time that somebody scrolls to the top. */
export async function scrolledToTop(chat: Chat) {
  if (!chat.complete) await chat.history({ limit: 50 });
}

export async function looked(chat: Chat) {
  await chat.markRead(); // everything that is shown
}
