// MongoDB through mongoose: the collections of Holdfast that both processes use.

import mongoose from 'mongoose'

const options = { versionKey: false, autoIndex: false, autoCreate: false }
const text = String

const schema = new mongoose.Schema(
  {
    _id: text, tempId: text, chatId: text, senderId: text, receiverId: text, content: text, imageUrl: text, publicId: text,
    timestamp: mongoose.Schema.Types.BigInt,
  },
  { ...options, collection: 'messages' },
)
schema.index({ chatId: 1, timestamp: -1, _id: -1 })

const conversation = new mongoose.Schema(
  { _id: text, members: [text], lastMessage: Object, lastTimestamp: mongoose.Schema.Types.BigInt },
  { ...options, collection: 'conversations' },
)
const group = new mongoose.Schema({ _id: text, members: Array }, { ...options, collection: 'groups' })

export const Message = mongoose.model('Message', schema)
export const Conversation = mongoose.model('Conversation', conversation)
export const Group = mongoose.model('Group', group)

export async function connect(url, dbName, maxPoolSize) {
  await mongoose.connect(url, { dbName, maxPoolSize, serverSelectionTimeoutMS: 3000, w: 'majority', journal: true })
  await Message.createIndexes()
}
