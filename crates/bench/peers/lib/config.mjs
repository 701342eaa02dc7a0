// The settings that the services of Holdfast have too, by the same names.

const number = (name, otherwise) => {
  const value = Number(process.env[name] ?? otherwise)
  if (!Number.isFinite(value)) throw new Error(`${name} is not a number`)
  return value
}

const address = (text) => {
  const [host, port] = text.split(':')
  return { host, port: Number(port) }
}

export const config = {
  port: number('PORT', 3000),
  bind: process.env.BIND ?? '127.0.0.1',
  ops: address(process.env.OPS_ADDR ?? '127.0.0.1:9464'),
  secret: process.env.JWT_SECRET ?? '',
  brokers: (process.env.KAFKA_BROKERS ?? '127.0.0.1:9092').split(','),
  topic: process.env.KAFKA_TOPIC ?? 'chat-messages-persist',
  dlqTopic: process.env.KAFKA_DLQ_TOPIC ?? 'chat-messages-dlq',
  partitions: number('KAFKA_PARTITIONS', 8),
  replicationFactor: number('KAFKA_REPLICATION_FACTOR', 1),
  group: process.env.KAFKA_GROUP ?? 'chat-persist-worker',
  deliveryTimeout: number('KAFKA_DELIVERY_TIMEOUT_MS', 2500),
  breakerRecovery: number('KAFKA_CB_RECOVERY_TIMEOUT', 5000),
  cacheUrl: process.env.REDIS_URL ?? 'redis://127.0.0.1:6379/',
  queueUrl: process.env.REDIS_QUEUE_URL ?? process.env.REDIS_URL ?? 'redis://127.0.0.1:6379/',
  cacheBudget: number('REDIS_BUDGET_MS', 1000),
  failedQueueTimeout: number('FAILED_QUEUE_TIMEOUT_MS', 1000),
  mongoUrl: process.env.MONGO_URL ?? 'mongodb://127.0.0.1:27017/',
  mongoDb: process.env.MONGO_DB ?? 'chat',
  recentMax: number('RECENT_MAX_MESSAGES', 100),
  recentTtl: number('RECENT_TTL_SECS', 604800),
  historyLimit: number('HISTORY_DEFAULT_LIMIT', 20),
  bulk: number('BULK_THRESHOLD', 1000),
}
