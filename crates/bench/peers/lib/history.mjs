// A page of a chat: from the recent list if that fills it, else from MongoDB, which then fills the list.

import { invalid, unavailable } from './message.mjs'
import { Message } from './model.mjs'

const FIELDS = { __v: 0 }
const newestFirst = (a, b) => b.timestamp - a.timestamp || (a.messageId < b.messageId ? 1 : -1)

export class History {
  constructor(recent, config) {
    this.recent = recent
    this.max = config.recentMax
    this.defaultLimit = config.historyLimit
  }

  async page(chatId, { limit = this.defaultLimit, before }) {
    if (!Number.isInteger(limit) || limit < 1 || limit > 100) throw invalid('limit')
    if (before !== undefined) return this.older(chatId, limit, before)
    const listed = await this.recent.page(chatId, limit).catch(() => undefined)
    if (listed && (listed.messages.length === limit || listed.whole)) {
      return answer(listed.messages, listed.more || !listed.whole, limit, 'cache', listed)
    }
    let stored
    try {
      stored = await find({ chatId }, this.max + 1)
    } catch {
      if (!listed) throw unavailable('the store can not be read now')
      return { ...answer(listed.messages, false, limit, 'cache', listed), complete: false }
    }
    const whole = stored.length <= this.max
    if (listed) this.recent.fill(chatId, stored.slice(0, this.max), whole).catch(() => {})
    const known = new Set(stored.map((message) => message.messageId))
    const elsewhere = (listed?.messages ?? []).filter((message) => !known.has(message.messageId))
    const all = elsewhere.length > 0 ? [...stored, ...elsewhere].sort(newestFirst) : stored
    return answer(all.slice(0, limit), all.length > limit, limit, listed?.messages.length ? 'merged' : 'store', listed)
  }

  async older(chatId, limit, before) {
    const [timestamp, id] = Buffer.from(String(before), 'base64url').toString().split('/')
    const time = Number(timestamp)
    if (!Number.isFinite(time) || !id) throw invalid('before')
    const below = { $or: [{ timestamp: { $lt: BigInt(time) } }, { timestamp: BigInt(time), _id: { $lt: id } }] }
    const stored = await find({ chatId, ...below }, limit + 1)
    return answer(stored.slice(0, limit), stored.length > limit, limit, 'store')
  }
}

async function find(filter, limit) {
  const documents = await Message.find(filter, FIELDS).sort({ timestamp: -1, _id: -1 }).limit(limit).lean()
  return documents.map(({ _id, timestamp, ...rest }) => ({ messageId: _id, ...rest, timestamp: Number(timestamp) }))
}

function answer(messages, more, limit, source, listed) {
  const last = messages.at(-1)
  const page = { ok: true, messages, source, complete: true, epoch: listed?.epoch ?? null, seq: listed?.epoch ? listed.seq : null }
  if (more && last) page.nextCursor = Buffer.from(`${last.timestamp}/${last.messageId}`).toString('base64url')
  return page
}
