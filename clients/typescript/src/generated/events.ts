// Made from docs/asyncapi.json by `npm run generate`. Do not edit.
/**
 * What made a message durable.
 */
export type Durability = ("kafka" | "failed-queue")
/**
 * Where a page came from.
 */
export type Source = ("cache" | "store" | "merged")
/**
 * The codes of the wire contract.
 */
export type Code = ("VALIDATION" | "UNAUTHENTICATED" | "FORBIDDEN" | "NOT_FOUND" | "RATE_LIMITED" | "TOO_LARGE" | "UNAVAILABLE" | "INTERNAL")

/**
 * A send: to one of `friendId` and `chatId`; both must agree.
 */
export interface SendRequest {
/**
 * Or the chat.
 */
chatId?: (string | null)
/**
 * The text. It may be empty beside an image.
 */
content?: string
/**
 * The other user.
 */
friendId?: (string | null)
/**
 * An https address, never fetched by the server.
 */
imageUrl?: (string | null)
/**
 * The image's id at its host.
 */
publicId?: (string | null)
/**
 * The client's id for the send; a UUID is advised. Every repeat with the same `tempId` and body is the same message.
 */
tempId?: (string | null)
}
/**
 * The answer to a send. Only once the message is durable.
 */
export interface Sent {
/**
 * True: an earlier send of the same message had it shown already.
 */
duplicate?: boolean
/**
 * What made it durable.
 */
durability: ("kafka" | "failed-queue")
message: Message
}
/**
 * As it is stored: a repeat has the first copy's time.
 */
export interface Message {
/**
 * The chat: two user ids in byte order joined by `:`, or `g_` and a UUID.
 */
chatId: string
/**
 * The text.
 */
content: string
/**
 * The live stream's epoch. A new one says that the stream may have lost something.
 */
epoch?: (string | null)
/**
 * An image, never fetched by the server.
 */
imageUrl?: string
/**
 * The id of the message, everywhere. Clients drop a `messageId` that they have.
 */
messageId: string
/**
 * The image's id at its host.
 */
publicId?: string
/**
 * The other user of a direct chat.
 */
receiverId?: string
/**
 * The user who sent it.
 */
senderId: string
/**
 * Its place in the chat's live stream, rising by one per message within one epoch; null where the stream could not be asked.
 */
seq?: (number | null)
/**
 * The sender's own id for the send.
 */
tempId?: string
/**
 * Unix epoch milliseconds, given by the gateway. History is in the order of (`timestamp`, `messageId`).
 */
timestamp: number
}
/**
 * A message. It never changes.
 */
export interface Message1 {
/**
 * The chat: two user ids in byte order joined by `:`, or `g_` and a UUID.
 */
chatId: string
/**
 * The text.
 */
content: string
/**
 * The live stream's epoch. A new one says that the stream may have lost something.
 */
epoch?: (string | null)
/**
 * An image, never fetched by the server.
 */
imageUrl?: string
/**
 * The id of the message, everywhere. Clients drop a `messageId` that they have.
 */
messageId: string
/**
 * The image's id at its host.
 */
publicId?: string
/**
 * The other user of a direct chat.
 */
receiverId?: string
/**
 * The user who sent it.
 */
senderId: string
/**
 * Its place in the chat's live stream, rising by one per message within one epoch; null where the stream could not be asked.
 */
seq?: (number | null)
/**
 * The sender's own id for the send.
 */
tempId?: string
/**
 * Unix epoch milliseconds, given by the gateway. History is in the order of (`timestamp`, `messageId`).
 */
timestamp: number
}
/**
 * A page of the chat with `friendId`, or of `chatId`.
 */
export interface HistoryRequest {
/**
 * The `nextCursor` of a page: the page after it.
 */
before?: (string | null)
/**
 * Or the chat.
 */
chatId?: (string | null)
/**
 * The other user.
 */
friendId?: (string | null)
/**
 * The most messages.
 */
limit?: (number | null)
}
/**
 * A page of a chat's history.
 */
export interface HistoryPage {
/**
 * False: older or missed messages may be absent because the store could not be asked; ask again.
 */
complete: boolean
/**
 * The live stream's epoch, read before the messages; null when it could not be asked.
 */
epoch: (string | null)
/**
 * Newest first.
 */
messages: Message1[]
/**
 * Opaque; `before` of the next page. Absent at the end.
 */
nextCursor?: string
/**
 * The live stream's position, read before the messages.
 */
seq: (number | null)
/**
 * Where the page came from.
 */
source: ("cache" | "store" | "merged")
/**
 * The other members who are typing now. On the first page only; absent while the cache is unavailable, and in groups of more than 100
 * members.
 */
typing?: string[]
}
/**
 * What a client has of the live streams. At most 1,000 chats are recovered.
 */
export interface ResumeRequest {
/**
 * By chat, the highest seq up to which the client has everything.
 */
offsets?: {
[k: string]: Offset
}
}
/**
 * A position in a chat's live stream.
 */
export interface Offset {
/**
 * The stream's epoch.
 */
epoch: string
/**
 * The highest seq up to which the client has everything.
 */
seq: number
}
/**
 * `resume`'s answer, and `resumed`.
 */
export interface Missed {
/**
 * By chat, for each chat that was named.
 */
chats: {
[k: string]: MissedOfChat
}
}
/**
 * What was missed of one chat.
 */
export interface MissedOfChat {
/**
 * The stream's epoch now; null when it is not known.
 */
epoch: (string | null)
/**
 * In the order of `seq`.
 */
messages?: Message1[]
/**
 * True: `messages` are exactly those after the offset. False: read history.
 */
recovered: boolean
/**
 * The stream's position now.
 */
seq: (number | null)
}
/**
 * Whether the user types, to the members of one of `friendId` and `chatId`; both must agree.
 */
export interface TypingRequest {
/**
 * Or the chat.
 */
chatId?: (string | null)
/**
 * The other user.
 */
friendId?: (string | null)
/**
 * Whether the user types. True again every few seconds while it lasts.
 */
typing: boolean
}
/**
 * The answer to a request that returns nothing.
 */
export interface Done {

}
/**
 * The users whose presence is asked for.
 */
export interface PresenceRequest {
/**
 * At most 100 users.
 * 
 * @maxItems 100
 */
userIds: string[]
}
/**
 * Who is online.
 */
export interface Presences {
/**
 * By user, when they were last there, in Unix epoch milliseconds; now, if they are. Absent if that is not known: it is
 * remembered for a week.
 */
lastSeen: {
[k: string]: number
}
/**
 * By user, for each user who was named: whether any device is connected.
 */
online: {
[k: string]: boolean
}
}
/**
 * Everything up to a message of the chat with `friendId`, or of `chatId`, is read.
 */
export interface ReadRequest {
/**
 * Or the chat.
 */
chatId?: (string | null)
/**
 * The other user.
 */
friendId?: (string | null)
/**
 * The last message that was read.
 */
upTo: string
}
/**
 * The answer to `markRead`.
 */
export interface Read {
/**
 * Unread messages of the chat now, 999 at most.
 */
unread: number
}
/**
 * Nothing but the event's name.
 */
export interface Nothing {

}
/**
 * Unread messages.
 */
export interface UnreadMessages {
/**
 * By chat, where there are any; each count is 999 at most.
 */
counts: {
[k: string]: number
}
/**
 * The sum over all chats, 999 at most.
 */
total: number
}
/**
 * A page of the user's chats.
 */
export interface ConversationsRequest {
/**
 * The `nextCursor` of a page: the page after it.
 */
before?: (string | null)
/**
 * The most conversations.
 */
limit?: (number | null)
}
/**
 * A page of the user's chats.
 */
export interface Conversations {
/**
 * False: something may be absent because the store could not be asked; ask again.
 */
complete: boolean
/**
 * Newest first.
 */
conversations: Conversation[]
/**
 * Opaque; `before` of the next page. Absent at the end.
 */
nextCursor?: string
}
/**
 * A chat of the user.
 */
export interface Conversation {
/**
 * The chat: two user ids in byte order joined by `:`, or `g_` and a UUID.
 */
chatId: string
lastMessage: (Message2 | null)
/**
 * Its members; of a group, 100 at most.
 */
members: string[]
/**
 * The other members who are online; null if that is not known now.
 */
online: (string[] | null)
/**
 * Unread messages of the chat, 999 at most; null if that is not known now.
 */
unread: (number | null)
}
/**
 * A message. It never changes.
 */
export interface Message2 {
/**
 * The chat: two user ids in byte order joined by `:`, or `g_` and a UUID.
 */
chatId: string
/**
 * The text.
 */
content: string
/**
 * The live stream's epoch. A new one says that the stream may have lost something.
 */
epoch?: (string | null)
/**
 * An image, never fetched by the server.
 */
imageUrl?: string
/**
 * The id of the message, everywhere. Clients drop a `messageId` that they have.
 */
messageId: string
/**
 * The image's id at its host.
 */
publicId?: string
/**
 * The other user of a direct chat.
 */
receiverId?: string
/**
 * The user who sent it.
 */
senderId: string
/**
 * Its place in the chat's live stream, rising by one per message within one epoch; null where the stream could not be asked.
 */
seq?: (number | null)
/**
 * The sender's own id for the send.
 */
tempId?: string
/**
 * Unix epoch milliseconds, given by the gateway. History is in the order of (`timestamp`, `messageId`).
 */
timestamp: number
}
/**
 * The position of a message that this connection has received already. It counts towards the client's offset; a client that does not have
 * the message ignores it.
 */
export interface MessagePositioned {
/**
 * The chat.
 */
chatId: string
/**
 * The stream's epoch.
 */
epoch: string
/**
 * The message.
 */
messageId: string
/**
 * Its position within the epoch.
 */
seq: number
}
/**
 * A message that nothing durable took, though it was shown. Provisional: a later `newMessage`, history or resume with that id wins.
 */
export interface MessageFailed {
/**
 * The chat.
 */
chatId: string
/**
 * The id of the message.
 */
messageId: string
/**
 * The sender's own id for the send.
 */
tempId: (string | null)
}
/**
 * The chat that an event is about.
 */
export interface OfChat {
/**
 * The chat.
 */
chatId: string
}
/**
 * Whether somebody types.
 */
export interface TypingTold {
/**
 * The chat.
 */
chatId: string
/**
 * False: they stopped, or said nothing for a while.
 */
typing: boolean
/**
 * The member who types.
 */
userId: string
}
/**
 * Whether somebody is online.
 */
export interface PresenceTold {
/**
 * When they were last there, in Unix epoch milliseconds.
 */
lastSeen: number
/**
 * Whether any of their devices is connected.
 */
online: boolean
/**
 * The user.
 */
userId: string
}
/**
 * Somebody has read a chat.
 */
export interface MessagesRead {
/**
 * The chat that was read.
 */
chatId: string
/**
 * Up to which message.
 */
upTo: string
/**
 * The member who read it.
 */
userId: string
}
/**
 * How much is unread; each count at most 999.
 */
export interface UnreadCount {
/**
 * The chat.
 */
chatId: string
/**
 * Unread messages of the chat.
 */
count: number
/**
 * Unread messages of all chats.
 */
total: number
}
/**
 * An answer that is not positive: `{ code, message, retryable, retryAfterMs? }`.
 */
export interface Refusal {
/**
 * What kind of refusal.
 */
code: ("VALIDATION" | "UNAUTHENTICATED" | "FORBIDDEN" | "NOT_FOUND" | "RATE_LIMITED" | "TOO_LARGE" | "UNAVAILABLE" | "INTERNAL")
/**
 * A sentence for the developer of the client.
 */
message: string
/**
 * When a repeat makes sense, in milliseconds from now.
 */
retryAfterMs?: number
/**
 * Whether the same request may succeed later.
 */
retryable: boolean
}
/**
 * The handshake's `auth`.
 */
export interface Handshake {
/**
 * As `resume`'s; the answer is the event `resumed`.
 */
offsets?: {
[k: string]: Offset
}
/**
 * A JWT.
 */
token: string
}

/** What a client asks for, and the positive answer. */
export interface ClientEvents {
  /** Asks for a page of one's chats, newest first. */
  conversations: { request: ConversationsRequest; answer: Conversations };
  /** Reads a page of a chat's history, newest first. */
  history: { request: HistoryRequest; answer: HistoryPage };
  /** Says up to where a chat is read. It only moves forward. */
  markRead: { request: ReadRequest; answer: Read };
  /** Asks who is online. */
  presence: { request: PresenceRequest; answer: Presences };
  /** Asks for exactly what was missed of the live streams since an offset. */
  resume: { request: ResumeRequest; answer: Missed };
  /** Sends a message. Answered positively only once it is durable. */
  sendMessage: { request: SendRequest; answer: Sent };
  /** Says whether one types. It holds for five seconds, and ends with the message. */
  typing: { request: TypingRequest; answer: Done };
  /** Asks how much is unread. */
  unread: { request: Nothing; answer: UnreadMessages };
}

/** What the server tells. */
export interface ServerEvents {
  /** A group has changed, or whether one belongs to it. */
  chatUpdated: OfChat;
  /** A message that was shown before, but that nothing durable took. */
  messageFailed: MessageFailed;
  /** The position of a message that this connection has received already, once the position is known. */
  messagePositioned: MessagePositioned;
  /** Another member has read the chat: at once, and then at most once a second. Not sent in groups of more than 100 members. */
  messagesRead: MessagesRead;
  /** A new message, to every device of sender and receivers. One connection receives a `messageId` once, as far as the gateway remembers (10 minutes, 100,000 messages). Clients still drop a `messageId` that they have. */
  newMessage: Message;
  /** Somebody who shares a chat came online, or has gone. */
  presence: PresenceTold;
  /** The answer to the handshake's `offsets`. */
  resumed: Missed;
  /** Live events may have been missed: `resume`. */
  resync: Nothing;
  /** Another member types, or does no more. */
  typing: TypingTold;
  /** How much is unread, to one's own devices: on `markRead`, and at most once a second on arrival. */
  unreadCount: UnreadCount;
}
