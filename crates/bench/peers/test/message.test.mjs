import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { test } from 'node:test'
import { decodeDocument, encode, messageId } from '../lib/message.mjs'

const proto = (name) => readFileSync(new URL(`../../../../proto/${name}`, import.meta.url), 'utf8')

test('ids are those of the test vectors', () => {
  const vectors = JSON.parse(proto('message-id-vectors.json'))
  assert(vectors.length > 3)
  for (const one of vectors) {
    const id = messageId(one.senderId, one.chatId, one.tempId, one.content, one.imageUrl, one.publicId)
    assert.equal(id, one.messageId, JSON.stringify(one))
  }
})

test('a record that Holdfast wrote is read and written with the same bytes', () => {
  const bytes = Buffer.from(proto('record-v1.hex').trim(), 'hex')
  const { _id, timestamp, ...rest } = decodeDocument(bytes)
  assert.deepEqual(Buffer.from(encode({ messageId: _id, ...rest, timestamp: Number(timestamp) })), bytes)
})
