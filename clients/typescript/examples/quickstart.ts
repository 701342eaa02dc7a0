import { connect, type ViewMessage } from "@holdfast/client";

export async function quickstart(
  url: string,
  fetchToken: (options: { refresh: boolean }) => Promise<string>,
  render: (messages: readonly ViewMessage[]) => void,
) {
  const client = connect({ url, getToken: fetchToken });
  await client.ready; // from here on it is known who the user is

  const chat = client.direct("bob"); // or client.chat(chatId)
  chat.subscribe(() => render(chat.messages));
  await chat.history(); // the newest page; each further call reads the next older one

  const { sent } = chat.send("hello"); // shown at once, as "sending"
  const message = await sent; // durable: shown as "sent"
  return { client, chat, message };
}
