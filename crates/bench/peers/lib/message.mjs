// What a message is: validation, its id, its record in Kafka. The same rules, ids and bytes as Holdfast's.

import { hash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import protobuf from 'protobufjs'

// Without it, 64-bit numbers are plain ones: milliseconds fit.
protobuf.util.Long = null
protobuf.configure()

const proto = readFileSync(new URL('../../../../proto/holdfast/v1/message.proto', import.meta.url), 'utf8')
const ChatMessage = protobuf.parse(proto).root.lookupType('holdfast.v1.ChatMessage')

const NAMESPACE = Buffer.from('4f1d7a0e9c7b5b7e8f0a2d5c6e31b9d4', 'hex')
const USER = /^[A-Za-z0-9_.-]{1,64}$/
const GROUP = /^g_[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/
const INVISIBLE = /^[\s\p{Default_Ignorable_Code_Point}\p{Cc}]*$/u
const MAX_CONTENT = 4096

export const HEADERS = { 'content-type': 'application/x-protobuf', 'schema-version': '1' }

/** A refusal, as clients see it. */
export class Refusal extends Error {
  constructor(code, message, retryable = false) {
    super(message)
    this.answer = { ok: false, error: { code, message, retryable } }
  }
}

export const invalid = (message) => new Refusal('VALIDATION', message)
export const unavailable = (message) => new Refusal('UNAVAILABLE', message, true)

export const isUser = (text) => typeof text === 'string' && USER.test(text)
export const isGroup = (chatId) => chatId.startsWith('g_')

/** The chat that a payload names by `friendId` or `chatId`, for this user. */
export function chatOf(user, payload) {
  const { friendId, chatId } = payload ?? {}
  if (friendId !== undefined) {
    if (!isUser(friendId) || friendId === user) throw invalid('friendId')
    const chat = user < friendId ? `${user}:${friendId}` : `${friendId}:${user}`
    if (chatId !== undefined && chatId !== chat) throw invalid('friendId and chatId disagree')
    return chat
  }
  if (typeof chatId !== 'string') throw invalid('friendId or chatId is needed')
  if (GROUP.test(chatId)) return chatId
  const [first, second, more] = chatId.split(':')
  if (more !== undefined || !isUser(first) || !isUser(second) || first >= second) throw invalid('chatId')
  if (first !== user && second !== user) throw new Refusal('FORBIDDEN', 'not your chat')
  return chatId
}

/** The other user of a direct chat. */
export function partner(chatId, user) {
  const colon = chatId.indexOf(':')
  const first = chatId.slice(0, colon)
  return first === user ? chatId.slice(colon + 1) : first
}

/** A message of `user`, checked, without its timestamp. */
export function draft(user, payload) {
  const chatId = chatOf(user, payload)
  const { tempId, content = '', imageUrl, publicId } = payload
  if (tempId !== undefined && (typeof tempId !== 'string' || tempId.length < 1 || tempId.length > 128)) throw invalid('tempId')
  if (typeof content !== 'string' || content.length > MAX_CONTENT) throw invalid('content')
  if (imageUrl !== undefined && (typeof imageUrl !== 'string' || !imageUrl.startsWith('https://') || imageUrl.length > 2048)) {
    throw invalid('imageUrl')
  }
  if (publicId !== undefined && (typeof publicId !== 'string' || publicId.length > 256)) throw invalid('publicId')
  if (imageUrl === undefined && INVISIBLE.test(content)) throw invalid('content is empty')
  return {
    messageId: messageId(user, chatId, tempId ?? `${Date.now()}-${Math.random()}`, content, imageUrl, publicId),
    tempId,
    chatId,
    senderId: user,
    receiverId: isGroup(chatId) ? undefined : partner(chatId, user),
    content,
    imageUrl,
    publicId,
    timestamp: 0,
  }
}

/** UUIDv5 of the send; see `crates/message/src/message_id.rs`. */
export function messageId(senderId, chatId, tempId, content, imageUrl = '', publicId = '') {
  const body = hash('sha256', parts(0, content, imageUrl, publicId), 'buffer')
  const head = parts(NAMESPACE.length, senderId, chatId, tempId)
  NAMESPACE.copy(head)
  const name = Buffer.allocUnsafe(head.length + 36)
  head.copy(name)
  name.writeUInt32BE(32, head.length)
  body.copy(name, head.length + 4)
  const digest = hash('sha1', name, 'buffer')
  digest[6] = (digest[6] & 0x0f) | 0x50
  digest[8] = (digest[8] & 0x3f) | 0x80
  const hex = digest.toString('hex', 0, 16)
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-${hex.slice(12, 16)}-${hex.slice(16, 20)}-${hex.slice(20)}`
}

/** The texts, each behind its length in bytes, behind `room` unused bytes. */
function parts(room, ...texts) {
  const lengths = texts.map((text) => Buffer.byteLength(text))
  const bytes = Buffer.allocUnsafe(lengths.reduce((sum, length) => sum + 4 + length, room))
  let at = room
  texts.forEach((text, index) => {
    bytes.writeUInt32BE(lengths[index], at)
    bytes.write(text, at + 4)
    at += 4 + lengths[index]
  })
  return bytes
}

/** A record's value. */
export function encode(message) {
  return ChatMessage.encode({ ...message, timestampMs: message.timestamp }).finish()
}

/** The document that MongoDB holds; absent fields are left out. Throws if the bytes are no message. */
export function decodeDocument(value) {
  const record = ChatMessage.decode(value)
  if (!record.messageId || !record.chatId || !record.senderId || record.timestampMs <= 0) throw new Error('a field is missing')
  const document = { _id: record.messageId, chatId: record.chatId, senderId: record.senderId, content: record.content }
  if (record.tempId) document.tempId = record.tempId
  if (record.receiverId) document.receiverId = record.receiverId
  if (record.imageUrl) document.imageUrl = record.imageUrl
  if (record.publicId) document.publicId = record.publicId
  document.timestamp = BigInt(record.timestampMs)
  return document
}
