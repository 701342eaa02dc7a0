// Events for other gateways, over Redis: a channel for each user and each group that has a socket here.

import { randomBytes } from 'node:crypto'
import Redis from 'ioredis'

const OWN = `{"origin":"${randomBytes(8).toString('hex')}"`
const userChannel = (user) => `chat:v1:user:{${user}}`
const groupChannel = (chatId) => `chat:v1:group:{${chatId}}`

export class Channels {
  constructor(config, publishing, onMessage) {
    this.publishing = publishing
    this.counts = new Map()
    this.subscriber = new Redis(config.cacheUrl, { retryStrategy: (times) => Math.min(times * 100, 1000) })
    this.subscriber.on('error', () => {})
    this.subscriber.on('message', (channel, text) => {
      if (text.startsWith(OWN)) return
      const { room, event, payload } = JSON.parse(text)
      onMessage(channel, room, event, payload)
    })
  }

  async join(names) {
    const fresh = names.filter((name) => {
      const count = this.counts.get(name) ?? 0
      this.counts.set(name, count + 1)
      return count === 0
    })
    if (fresh.length > 0) await this.subscriber.subscribe(...fresh)
  }

  async leave(names) {
    const gone = names.filter((name) => {
      const count = (this.counts.get(name) ?? 1) - 1
      if (count > 0) this.counts.set(name, count)
      else this.counts.delete(name)
      return count === 0
    })
    if (gone.length > 0) await this.subscriber.unsubscribe(...gone)
  }

  /** Publishes one event a room, all in one pipeline. `events`: [channel, room, event, JSON of the payload]. */
  publish(events) {
    const pipeline = this.publishing.pipeline()
    for (const [channel, room, event, payload] of events) {
      pipeline.publish(channel, `${OWN},"room":${JSON.stringify(room)},"event":"${event}","payload":${payload}}`)
    }
    pipeline.exec().catch(() => {})
  }
}

export { userChannel, groupChannel }
