// The twin's worker: Kafka → MongoDB, offsets committed once everything below them is stored.
//
// Batches of all partitions gather in one buffer, which is stored as bulks of up to 1,000 upserts. A partition's next batch is read when
// its last one is stored, so what is committed is stored.

import { setTimeout as sleep } from 'node:timers/promises'
import { config } from './lib/config.mjs'
import { decodeDocument } from './lib/message.mjs'
import { connect, Conversation, Message } from './lib/model.mjs'
import { serveOps } from './lib/ops.mjs'
import { createTopics, kafka } from './lib/publisher.mjs'

/** How long a bulk that is not full waits for more: the other partitions' fetches. */
const GATHER_MS = 20
const CONVERSATIONS_MS = 1000
const DUPLICATE_KEY = 11000
/** Errors of one document, which no retry mends: too large, not valid. */
const OF_THE_DOCUMENT = new Set([2, 121, 10334, 17280, 17419, 17420])

const client = kafka(config, 'twin-worker')
const consumer = client.consumer({
  groupId: config.group,
  sessionTimeout: 10_000,
  // A broker that has just started has no coordinator yet.
  retry: { initialRetryTime: 200, retries: 20, maxRetryTime: 2000 },
  heartbeatInterval: 1000,
  // An answer holds 64 KiB or more, unless that takes longer: it saves the broker most of its work.
  minBytes: 65_536,
  maxWaitTimeInMs: 100,
  maxBytesPerPartition: 1_048_576,
})
let deadLetters
let isReady = false

let buffer = []
let timer
let storing = Promise.resolve()

/** Resolves when all of these are stored or dead-lettered. */
function store(entries) {
  const stored = new Promise((resolve) => {
    let left = entries.length
    for (const entry of entries) {
      buffer.push({
        ...entry,
        done: () => {
          left -= 1
          if (left === 0) resolve()
        },
      })
    }
  })
  while (buffer.length >= config.bulk) flush(buffer.splice(0, config.bulk))
  if (buffer.length > 0) timer ??= setTimeout(() => flush(buffer.splice(0)), GATHER_MS)
  return stored
}

function flush(entries) {
  clearTimeout(timer)
  timer = undefined
  storing = storing.then(() => write(entries))
}

async function write(entries) {
  let left = entries
  for (let attempt = 0; left.length > 0; attempt += 1) {
    if (attempt > 0) await sleep(Math.min(100 * 2 ** attempt, 5000))
    left = await upsert(left)
  }
  entries.forEach(({ done }) => done())
}

/** One bulk. Returns the entries that must be tried again. */
async function upsert(entries) {
  const operations = entries.map(({ document: { _id, ...rest } }) => ({
    updateOne: { filter: { _id }, update: { $setOnInsert: rest }, upsert: true },
  }))
  try {
    await Message.bulkWrite(operations, { ordered: false, timestamps: false })
  } catch (error) {
    const failed = error.writeErrors ? [error.writeErrors].flat() : undefined
    if (!failed || error.result?.getWriteConcernError?.()) return entries
    const again = []
    for (const one of failed) {
      if (one.code === DUPLICATE_KEY) continue
      if (OF_THE_DOCUMENT.has(one.code)) await bury(entries[one.index].record, one.errmsg)
      else again.push(entries[one.index])
    }
    touch(entries.filter((entry) => !again.includes(entry)))
    return again
  }
  touch(entries)
  return []
}

async function bury({ key, value, headers, partition, offset }, reason) {
  const more = { 'dlq-reason': reason, 'dlq-topic': config.topic, 'dlq-partition': String(partition), 'dlq-offset': offset }
  const message = { key, value, headers: { ...headers, ...more, 'dlq-time': String(Date.now()) } }
  for (;;) {
    try {
      await deadLetters.send({ topic: config.dlqTopic, acks: -1, messages: [message] })
      return
    } catch {
      await sleep(1000)
    }
  }
}

// The view of chats by last message: coalesced, never waited for.
let latest = new Map()
let viewing

function touch(entries) {
  for (const { document } of entries) {
    const before = latest.get(document.chatId)
    if (!before || before.timestamp < document.timestamp) latest.set(document.chatId, document)
  }
  viewing ??= setTimeout(view, CONVERSATIONS_MS)
}

async function view() {
  viewing = undefined
  const chats = [...latest.values()]
  latest = new Map()
  const operations = chats.map(({ _id, chatId, timestamp, ...rest }) => ({
    updateOne: {
      filter: { _id: chatId, lastTimestamp: { $lt: timestamp } },
      update: {
        $set: { lastMessage: { messageId: _id, ...rest, timestamp }, lastTimestamp: timestamp },
        $setOnInsert: chatId.startsWith('g_') ? {} : { members: chatId.split(':') },
      },
      upsert: true,
    },
  }))
  // A later message is shown already: the upsert meets its primary key.
  await Conversation.bulkWrite(operations, { ordered: false, timestamps: false }).catch(() => {})
}

async function eachBatch({ batch, heartbeat, isStale }) {
  const { topic, partition } = batch
  const entries = []
  for (const message of batch.messages) {
    const record = { ...message, partition }
    try {
      entries.push({ record, document: decodeDocument(message.value) })
    } catch (error) {
      await bury(record, error.message)
    }
  }
  const beating = setInterval(() => heartbeat().catch(() => {}), 1000)
  try {
    if (entries.length > 0) await store(entries)
  } finally {
    clearInterval(beating)
  }
  if (isStale()) return
  await consumer.commitOffsets([{ topic, partition, offset: String(BigInt(batch.lastOffset()) + 1n) }])
}

serveOps(config.ops, () => isReady)
await connect(config.mongoUrl, config.mongoDb, 8)
await createTopics(client, config)
deadLetters = client.producer({ allowAutoTopicCreation: false })
await deadLetters.connect()
consumer.on(consumer.events.GROUP_JOIN, () => {
  isReady = true
})
await consumer.connect()
await consumer.subscribe({ topics: [config.topic], fromBeginning: true })
await consumer.run({ autoCommit: false, eachBatchAutoResolve: true, partitionsConsumedConcurrently: config.partitions, eachBatch })

process.on('SIGTERM', async () => {
  isReady = false
  setTimeout(() => process.exit(1), 10_000).unref()
  await consumer.disconnect()
  process.exit(0)
})
