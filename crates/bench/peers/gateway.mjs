// The twin's gateway: the write path and the read path of Holdfast's, in one process.
//
// sendMessage: validate, stamp → recent list (one pipeline for all sends of a turn of the event loop) → local sockets and other gateways →
// Kafka, else the failed queue → answer.

import { createServer } from 'node:http'
import jwt from 'jsonwebtoken'
import { Server } from 'socket.io'
import { Channels, groupChannel, userChannel } from './lib/channels.mjs'
import { config } from './lib/config.mjs'
import { FailedQueue } from './lib/failed-queue.mjs'
import { History } from './lib/history.mjs'
import { chatOf, draft, encode, isGroup, Refusal, unavailable } from './lib/message.mjs'
import { connect, Group } from './lib/model.mjs'
import { serveOps } from './lib/ops.mjs'
import { createTopics, kafka, Publisher } from './lib/publisher.mjs'
import { Recent } from './lib/recent.mjs'

/** The most sends of one pipeline. */
const MAX_BATCH = 64
const MEMBERS_MS = 60_000

const client = kafka(config, 'twin-gateway')
const publisher = new Publisher(client, config)
const failedQueue = new FailedQueue(config)
const recent = new Recent(config)
const history = new History(recent, config)
const rooms = { user: (user) => `u:${user}`, group: (chatId) => chatId }
const members = new Map()
let lastTimestamp = 0
let isReady = false

const http = createServer()
const io = new Server(http, {
  serveClient: false,
  perMessageDeflate: false,
  httpCompression: false,
  maxHttpBufferSize: 100_000,
})
// As Socket.IO's guide to memory says: nobody needs the handshake's request any more.
io.engine.on('connection', (raw) => {
  raw.request = null
})
const channels = new Channels(config, recent.redis, (_, room, event, payload) => io.to(room).emit(event, payload))

io.use((socket, next) => {
  jwt.verify(socket.handshake.auth.token ?? '', config.secret, { algorithms: ['HS256'] }, (error, claims) => {
    if (error || !claims.sub || !claims.exp) return next(new Error('UNAUTHENTICATED'))
    socket.data.user = claims.sub
    next()
  })
})

io.on('connection', (socket) => {
  const { user } = socket.data
  socket.join(rooms.user(user))
  const joined = groupsOf(user).then(async (groups) => {
    groups.forEach((chatId) => socket.join(rooms.group(chatId)))
    const names = [userChannel(user), ...groups.map(groupChannel)]
    await channels.join(names)
    return names
  })
  joined.catch(() => socket.disconnect(true))
  socket.on('disconnect', () => joined.then((names) => channels.leave(names)).catch(() => {}))
  socket.on('sendMessage', (payload, ack) => answering(ack, () => send(user, payload)))
  socket.on('history', (payload, ack) => answering(ack, () => history.page(chatOf(user, payload), payload)))
  socket.on('resume', (_, ack) => answering(ack, () => joined.then(() => ({ ok: true, chats: {} }))))
})

async function groupsOf(user) {
  const groups = await Group.find({ 'members.userId': user }, { _id: 1 }).lean()
  return groups.map((group) => group._id)
}

function answering(ack, work) {
  if (typeof ack !== 'function') return
  const refused = (error) => ack(error instanceof Refusal ? error.answer : unavailable(error.message).answer)
  try {
    work().then(ack, refused)
  } catch (error) {
    refused(error)
  }
}

let turn = []

/** A message of a direct chat goes on at once; who writes to a group must belong to it. */
function send(user, payload) {
  const message = draft(user, payload)
  return message.receiverId === undefined ? mayWrite(message).then(() => stamp(message)) : stamp(message)
}

/** Stamps a message in the order of arrival, and adds it to this turn's batch. */
function stamp(message) {
  lastTimestamp = Math.max(Date.now(), lastTimestamp + 1)
  message.timestamp = lastTimestamp
  return new Promise((resolve, reject) => {
    if (turn.length === 0) setImmediate(place)
    turn.push({ message, body: JSON.stringify(message), seq: null, epoch: null, repeat: false, resolve, reject })
    if (turn.length === MAX_BATCH) place()
  })
}

function place() {
  const batch = turn
  if (batch.length === 0) return
  turn = []
  // Without the cache the message is delivered here, without a position.
  recent.add(batch).catch(() => {}).then(() => deliver(batch))
}

function deliver(batch) {
  const events = []
  for (const one of batch) {
    if (!one.repeat) {
      const positioned = { ...one.message, seq: one.seq, epoch: one.epoch }
      const json = `${one.body.slice(0, -1)},"seq":${one.seq},"epoch":${JSON.stringify(one.epoch)}}`
      io.to(audience(one.message)).emit('newMessage', positioned)
      announce(events, one.message, 'newMessage', json)
    }
    makeDurable(one).then(one.resolve, one.reject)
  }
  if (events.length > 0) channels.publish(events)
}

function audience({ chatId, senderId, receiverId }) {
  return receiverId === undefined ? rooms.group(chatId) : [rooms.user(senderId), rooms.user(receiverId)]
}

function announce(events, { chatId, senderId, receiverId }, event, json) {
  if (receiverId === undefined) events.push([groupChannel(chatId), rooms.group(chatId), event, json])
  else for (const user of [senderId, receiverId]) events.push([userChannel(user), rooms.user(user), event, json])
}

async function makeDurable(one) {
  const { message } = one
  const value = encode(message)
  let durability = 'kafka'
  try {
    await publisher.publish(message, value)
  } catch {
    durability = 'failed-queue'
    try {
      await failedQueue.push(message, value)
    } catch {
      retract(message)
      throw unavailable('neither Kafka nor the failed queue takes the message')
    }
  }
  const answer = { ok: true, message: { ...message, seq: one.seq, epoch: one.epoch }, durability }
  if (one.repeat) answer.duplicate = true
  return answer
}

function retract(message) {
  const { messageId, tempId, chatId } = message
  const failed = { messageId, tempId, chatId }
  recent.remove(message).catch(() => {})
  io.to(audience(message)).emit('messageFailed', failed)
  const events = []
  announce(events, message, 'messageFailed', JSON.stringify(failed))
  channels.publish(events)
}

async function mayWrite({ chatId, senderId }) {
  let known = members.get(chatId)
  if (!known || known.until < Date.now()) {
    const group = await Group.findById(chatId).lean()
    known = { users: new Set(group?.members.map((member) => member.userId)), until: Date.now() + MEMBERS_MS }
    members.set(chatId, known)
  }
  if (!isGroup(chatId) || !known.users.has(senderId)) throw new Refusal('FORBIDDEN', 'not a member')
}

serveOps(config.ops, () => isReady)
await connect(config.mongoUrl, config.mongoDb, 32)
await failedQueue.check()
await createTopics(client, config)
await publisher.producer.connect()
void failedQueue.retry(publisher)
http.listen(config.port, config.bind, () => {
  isReady = true
})

process.on('SIGTERM', async () => {
  isReady = false
  setTimeout(() => process.exit(1), 10_000).unref()
  await new Promise((resolve) => io.close(resolve))
  await publisher.producer.disconnect()
  process.exit(0)
})
