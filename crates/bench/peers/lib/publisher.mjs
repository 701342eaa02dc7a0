// Kafka: sends gathered for up to 5 ms into one request, acknowledged by all replicas, behind a circuit breaker.

import { Kafka, logLevel } from 'kafkajs'
import { HEADERS } from './message.mjs'

const LINGER_MS = 5
const BATCH = 500
const FAILURES = 3

export const kafka = (config, clientId) =>
  new Kafka({
    clientId,
    brokers: config.brokers,
    connectionTimeout: 1000,
    requestTimeout: config.deliveryTimeout,
    logLevel: logLevel.ERROR,
    retry: { initialRetryTime: 100, retries: 3, maxRetryTime: 1000 },
  })

/** Creates the topics that are not there. */
export async function createTopics(client, config) {
  const admin = client.admin()
  await admin.connect()
  const topic = (name) => ({ topic: name, numPartitions: config.partitions, replicationFactor: config.replicationFactor })
  await admin.createTopics({ topics: [topic(config.topic), topic(config.dlqTopic)], waitForLeaders: true })
  await admin.disconnect()
}

export class Publisher {
  constructor(client, config) {
    this.topic = config.topic
    this.timeout = config.deliveryTimeout
    this.recovery = config.breakerRecovery
    // Not idempotent: kafkajs would allow one request at a time. The store absorbs what arrives twice.
    this.producer = client.producer({ allowAutoTopicCreation: false })
    this.waiting = []
    this.timer = undefined
    this.failures = 0
    this.openUntil = 0
  }

  /** Resolves when Kafka has the record. */
  publish(message, value) {
    const now = Date.now()
    if (this.openUntil > now) return Promise.reject(new Error('the breaker is open'))
    // Half-open: this record is the probe, and the others don't wait for what becomes of it.
    if (this.openUntil > 0) this.openUntil = now + this.timeout + this.recovery
    return new Promise((resolve, reject) => {
      this.waiting.push({ message, value, resolve, reject })
      if (this.waiting.length >= BATCH) this.flush()
      else this.timer ??= setTimeout(() => this.flush(), LINGER_MS)
    })
  }

  flush() {
    clearTimeout(this.timer)
    this.timer = undefined
    const batch = this.waiting
    this.waiting = []
    const messages = batch.map(({ message, value }) => ({ key: message.chatId, value, headers: HEADERS }))
    this.send(messages).then(
      () => batch.forEach(({ resolve }) => resolve()),
      (error) => batch.forEach(({ reject }) => reject(error)),
    )
  }

  /** Sends records, or fails within the delivery timeout. A late acknowledgement is ignored: the caller has fallen back by then. */
  async send(messages) {
    let timer
    const late = new Promise((_, reject) => {
      timer = setTimeout(() => reject(new Error('no acknowledgement in time')), this.timeout)
    })
    const sent = this.producer.send({ topic: this.topic, acks: -1, timeout: this.timeout, messages })
    sent.catch(() => {})
    try {
      await Promise.race([sent, late])
      this.failures = 0
      this.openUntil = 0
    } catch (error) {
      this.failures += 1
      if (this.failures >= FAILURES) this.openUntil = Date.now() + this.recovery
      throw error
    } finally {
      clearTimeout(timer)
    }
  }
}
