import type { Chat } from "@holdfast/client";

/** What can't be sent stays in the view until the user decides. */
export async function decide(chat: Chat, again: (why: string) => boolean) {
  for (const { status, tempId, error } of chat.messages) {
    if (status !== "failed" || !tempId) continue;
    if (again(error?.code ?? "")) await chat.retry(tempId);
    else await chat.discard(tempId);
  }
}
