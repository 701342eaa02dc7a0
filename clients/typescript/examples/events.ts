import type { Client } from "@holdfast/client";

export function badge(client: Client, show: (total: number) => void, notify: (text: string) => void) {
  client.on("newMessage", ({ senderId, content }) => {
    if (senderId !== client.userId) notify(`${senderId}: ${content}`); // each message once, missed ones too
  });
  client.on("unreadCount", ({ total }) => show(total));
  // Nothing repeats a count that was missed: after each gap it is read anew.
  client.on("synced", async () => show((await client.request("unread", {})).total));
  client.on("error", (error) => notify(error.message));
}
