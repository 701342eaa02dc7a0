// The recent list of each chat in Redis: ids by timestamp in a sorted set, bodies in a hash, the stream's position in another.
//
// A batch of sends is one pipeline. Nothing of it is conditional, so a repeat changes nothing: `ZADD NX` keeps the first timestamp, and the
// body is the same.

import { randomBytes } from 'node:crypto'
import Redis from 'ioredis'

/** How far a list may grow beyond its maximum before it is trimmed: trimming then costs little a message. */
const SLACK = 20
/** Chats whose epoch this process knows. */
const KNOWN = 50_000

// KEYS: ids, bodies, head. ARGV: limit. One round trip instead of two.
const PAGE = `
local ids = redis.call('ZREVRANGE', KEYS[1], 0, ARGV[1] - 1)
local head = redis.call('HMGET', KEYS[3], 'epoch', 'seq', 'whole')
if #ids == 0 then return { head, redis.call('ZCARD', KEYS[1]), {} } end
return { head, redis.call('ZCARD', KEYS[1]), redis.call('HMGET', KEYS[2], unpack(ids)) }`

const keys = (chatId) => [`chat:recent:{${chatId}}:ids`, `chat:recent:{${chatId}}`, `chat:recent:{${chatId}}:head`]

export class Recent {
  constructor(config) {
    this.max = config.recentMax
    this.ttl = config.recentTtl
    this.redis = new Redis(config.cacheUrl, {
      commandTimeout: config.cacheBudget,
      maxRetriesPerRequest: 0,
      enableOfflineQueue: false,
      retryStrategy: (times) => Math.min(times * 100, 1000),
      scripts: { recentPage: { lua: PAGE, numberOfKeys: 3 } },
    })
    this.redis.on('error', () => {})
    /** chatId → what is known of its list: epoch, and when its time to live was renewed. */
    this.known = new Map()
  }

  /** Adds the messages of `sends`, each with its JSON in `body`; sets `seq`, `epoch` and `repeat` of each. */
  async add(sends) {
    const pipeline = this.redis.pipeline()
    const now = Date.now()
    const steps = sends.map((send) => {
      const { chatId, messageId, timestamp } = send.message
      const [ids, bodies, head] = keys(chatId)
      const known = this.known.get(chatId)
      pipeline.zadd(ids, 'NX', timestamp, messageId)
      pipeline.hset(bodies, messageId, send.body)
      pipeline.hincrby(head, 'seq', 1)
      pipeline.zcard(ids)
      if (known && now - known.renewed < this.ttl * 10) return { send, known, commands: 4 }
      pipeline.hsetnx(head, 'epoch', randomBytes(8).toString('hex'))
      pipeline.hget(head, 'epoch')
      for (const key of [ids, bodies, head]) pipeline.expire(key, this.ttl)
      return { send, known: undefined, commands: 9 }
    })
    const results = await pipeline.exec()
    let at = 0
    const repeats = []
    for (const { send, known, commands } of steps) {
      const failed = results.slice(at, at + commands).find(([error]) => error)
      if (failed) throw failed[0]
      const { chatId } = send.message
      const epoch = known?.epoch ?? results[at + 5][1]
      if (!known) this.remember(chatId, { epoch, renewed: now })
      send.repeat = results[at][1] === 0
      if (send.repeat) repeats.push(send)
      send.seq = results[at + 2][1]
      send.epoch = epoch
      if (results[at + 3][1] > this.max + SLACK) void this.trim(chatId)
      at += commands
    }
    if (repeats.length > 0) await this.original(repeats)
  }

  /** Gives repeats the timestamp of the first copy. */
  async original(repeats) {
    const pipeline = this.redis.pipeline()
    for (const { message } of repeats) pipeline.zscore(keys(message.chatId)[0], message.messageId)
    const scores = await pipeline.exec()
    repeats.forEach(({ message }, number) => {
      if (scores[number][1]) message.timestamp = Number(scores[number][1])
    })
  }

  remember(chatId, known) {
    if (this.known.size >= KNOWN) this.known.delete(this.known.keys().next().value)
    this.known.set(chatId, known)
  }

  async trim(chatId) {
    const [ids, bodies, head] = keys(chatId)
    const last = -(this.max + 1)
    try {
      const [[, old]] = await this.redis.multi().zrange(ids, 0, last).zremrangebyrank(ids, 0, last).hdel(head, 'whole').exec()
      if (old.length > 0) await this.redis.hdel(bodies, ...old)
    } catch {
      // The next send trims.
    }
  }

  /** Takes a refused message out again. */
  async remove({ chatId, messageId }) {
    const [ids, bodies] = keys(chatId)
    await this.redis.pipeline().zrem(ids, messageId).hdel(bodies, messageId).exec()
  }

  /** The newest messages, newest first; `whole`: there are no others. */
  async page(chatId, limit) {
    const [[epoch, seq, whole], count, bodies] = await this.redis.recentPage(...keys(chatId), limit)
    const messages = bodies.filter(Boolean).map((body) => JSON.parse(body))
    return { epoch, seq: Number(seq ?? 0), messages, whole: whole === '1', more: count > messages.length }
  }

  /** Adds what the store has. `whole`: the store has no more of this chat. */
  async fill(chatId, messages, whole) {
    if (messages.length === 0) return
    const [ids, bodies, head] = keys(chatId)
    const pipeline = this.redis.pipeline()
    pipeline.zadd(ids, 'NX', ...messages.flatMap((message) => [message.timestamp, message.messageId]))
    pipeline.hset(bodies, ...messages.flatMap((message) => [message.messageId, JSON.stringify(message)]))
    pipeline.hsetnx(head, 'epoch', randomBytes(8).toString('hex'))
    if (whole) pipeline.hset(head, 'whole', 1)
    for (const key of [ids, bodies, head]) pipeline.expire(key, this.ttl)
    await pipeline.exec()
  }
}
