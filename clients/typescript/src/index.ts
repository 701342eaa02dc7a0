export { type Chat, Client, type ConnectOptions, connect } from "./client.js";
export type { Channel, Environment, SocketLike } from "./environment.js";
export type {
  ClientEvents,
  Code,
  Conversation,
  Durability,
  HistoryPage,
  Message,
  MessageFailed,
  MessagesRead,
  Presences,
  PresenceTold,
  Refusal,
  ServerEvents,
  TypingTold,
  UnreadCount,
  UnreadMessages,
} from "./generated/events.js";
export type { components, operations, paths } from "./generated/rest.js";
export { indexedDbStore, memoryStore } from "./store.js";
export {
  type Content,
  type Events,
  type Failure,
  HoldfastError,
  type OutboxEntry,
  type OutboxStore,
  type Sending,
  type SendStatus,
  type Status,
  type ViewMessage,
} from "./types.js";
