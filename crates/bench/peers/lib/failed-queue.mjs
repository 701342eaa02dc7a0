// What Kafka did not take: a list for each chat on a Redis that keeps an append-only file, and an index of the chats.

import { once } from 'node:events'
import Redis from 'ioredis'
import { HEADERS } from './message.mjs'

const LEASE_MS = 10_000
const CHATS = 64
const ENTRIES = 100
const PAUSE_MS = 500

// Removes the entries from the head while they are those given; then the chat from the index if its list is empty.
const FINISH = `
for i = 1, #ARGV do
  if redis.call('LINDEX', KEYS[1], 0) ~= ARGV[i] then break end
  redis.call('LPOP', KEYS[1])
end
return redis.call('LLEN', KEYS[1])`
// Takes a due chat, if nobody else has.
const LEASE = `
if redis.call('ZSCORE', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
redis.call('ZADD', KEYS[1], ARGV[3], ARGV[1])
return 1`
// Forgets a chat, if its lease is still ours.
const FORGET = `
if redis.call('ZSCORE', KEYS[1], ARGV[1]) == ARGV[2] then redis.call('ZREM', KEYS[1], ARGV[1]) end`

const INDEX = 'chat:failed:index'
const list = (chatId) => `chat:failed:{${chatId}}`

export class FailedQueue {
  constructor(config) {
    this.redis = new Redis(config.queueUrl, {
      commandTimeout: config.failedQueueTimeout,
      maxRetriesPerRequest: 0,
      enableOfflineQueue: false,
      retryStrategy: (times) => Math.min(times * 100, 1000),
      scripts: {
        finish: { lua: FINISH, numberOfKeys: 1 },
        lease: { lua: LEASE, numberOfKeys: 1 },
        forget: { lua: FORGET, numberOfKeys: 1 },
      },
    })
    this.redis.on('error', () => {})
  }

  /** Refuses to serve as a fallback what would forget. */
  async check() {
    if (this.redis.status !== 'ready') await once(this.redis, 'ready')
    const [, appendOnly] = await this.redis.config('GET', 'appendonly')
    const [, policy] = await this.redis.config('GET', 'maxmemory-policy')
    if (appendOnly !== 'yes' || policy !== 'noeviction') throw new Error('the failed queue needs an append-only file and noeviction')
  }

  /** Resolves when the message is in the queue. */
  async push({ chatId }, value) {
    const pipeline = this.redis.pipeline().rpush(list(chatId), Buffer.from(value)).zadd(INDEX, Date.now() + 1000, chatId)
    for (const [error] of await pipeline.exec()) if (error) throw error
  }

  /** Publishes what is due, for ever. */
  async retry(publisher) {
    for (;;) {
      let moved = 0
      try {
        moved = await this.replay(publisher)
      } catch {
        // Kafka or the queue is away.
      }
      if (moved === 0) await new Promise((resolve) => setTimeout(resolve, PAUSE_MS))
    }
  }

  async replay(publisher) {
    const due = await this.redis.zrangebyscore(INDEX, '-inf', Date.now(), 'WITHSCORES', 'LIMIT', 0, CHATS)
    const chats = Array.from({ length: due.length / 2 }, (_, number) => ({ chatId: due[2 * number], score: due[2 * number + 1] }))
    const until = String(Date.now() + LEASE_MS)
    const leased = await Promise.all(chats.map(({ chatId, score }) => this.redis.lease(INDEX, chatId, score, until)))
    const ours = chats.filter((_, number) => leased[number] === 1).map(({ chatId }) => chatId)
    const entries = await Promise.all(ours.map((chatId) => this.redis.lrangeBuffer(list(chatId), 0, ENTRIES - 1)))
    const messages = ours.flatMap((key, number) =>
      entries[number].map((value) => ({ key, value, headers: { ...HEADERS, uncached: '1' } })),
    )
    try {
      if (messages.length > 0) await publisher.send(messages)
    } catch (error) {
      // Due again at once, not when the lease ends.
      await this.redis.zadd(INDEX, ...ours.flatMap((chatId) => [Date.now(), chatId]))
      throw error
    }
    await Promise.all(ours.map(async (chatId, number) => {
      const left = entries[number].length > 0 ? await this.redis.finish(list(chatId), ...entries[number]) : 0
      if (left === 0) await this.redis.forget(INDEX, chatId, until)
      else await this.redis.zadd(INDEX, Date.now(), chatId)
    }))
    return messages.length
  }
}
