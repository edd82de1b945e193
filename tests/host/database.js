// What the lab does to the database by hand, past the operator: `node -e THIS -- URI VERB ARGUMENT...`. Prints JSON.
'use strict'

const { createHash, randomBytes } = require('crypto')
const { MongoClient } = require('mongodb')

// Bytes; of many, only what tells them from others.
const told = (bytes) => bytes.length < 1024 ? bytes.toString('base64') : `sha256 ${createHash('sha256').update(bytes).digest('hex')}`

// A value as JSON that keeps types apart and fields in their order, which readers of JSON do not: an object becomes a list
// of pairs.
const exact = (value) => {
  if (value === null || typeof value === 'string' || typeof value === 'boolean') return value
  if (typeof value === 'number') return { number: String(value) }
  if (value instanceof Date) return { date: value.getTime() }
  if (value instanceof RegExp) return { regex: String(value) }
  if (Array.isArray(value)) return { list: value.map(exact) }
  if (value._bsontype === 'Binary') return { Binary: told(value.buffer), of: value.sub_type }
  if (value._bsontype) return { [value._bsontype]: String(value._bsontype === 'Timestamp' ? value.toNumber() : value.valueOf()) }
  return Object.entries(value).map(([key, field]) => [key, exact(field)])
}

// A value as a person reads it.
const plain = (value) => {
  if (value instanceof Date) return { date: value.getTime() }
  if (value === null || typeof value !== 'object') return value
  if (Array.isArray(value)) return value.map(plain)
  if (value._bsontype) return String(value)
  return Object.fromEntries(Object.entries(value).map(([key, field]) => [key, plain(field)]))
}

const build = (name, repo, startTime, status) => ({
  name, displayName: name, startTime: new Date(startTime), status, phase: status === 'running' ? 'building' : 'finished', repo
})

const VERBS = {
  // A build as the build server leaves it, whatever was there under its name.
  async put (db, name, repo, startTime, status) {
    await db.collection('builds').deleteOne({ name })
    await db.collection('builds').insertOne(build(name, repo, startTime, status))
  },
  async template (db, name, image) {
    await db.collection('templates').deleteOne({ name })
    await db.collection('templates').insertOne({ name, 'image-name': image, 'image-source': `gcr.io/binder-testing/${image}`, port: 8888 })
  },
  async remove (db, collection, name) {
    await db.collection(collection).deleteOne({ name })
  },
  async build (db, name) {
    return plain(await db.collection('builds').findOne({ name }))
  },
  async templates (db) {
    return plain(await db.collection('templates').find({}).sort({ name: 1 }).toArray())
  },
  // Everything, in a form that keeps types, the order of fields, and indexes.
  async all (db) {
    const found = {}
    for (const { name } of await db.listCollections({}, { nameOnly: true }).toArray()) {
      const documents = await db.collection(name).find({}).sort({ _id: 1 }).toArray()
      const indexes = await db.collection(name).indexes()
      found[name] = exact({ documents, indexes: indexes.map(({ ns, ...rest }) => rest) })
    }
    return found
  },
  async drop (db) {
    await db.dropDatabase()
  },
  async forget (db, collection) {
    await db.collection(collection).drop()
  },
  // So many documents of a MiB each.
  async large (db, count) {
    const { Binary } = require('bson')
    const large = db.collection('large')
    await large.deleteMany({})
    for (let each = 0; each < Number(count); each++) await large.insertOne({ bytes: new Binary(randomBytes(1 << 20), 0) })
  },
  // A collection of what is hard to bring back: types, fields in an odd order, a compound index.
  async odd (db) {
    const { Binary, Double, Int32, Long, ObjectId, Timestamp } = require('bson')
    const odd = db.collection('odd')
    await odd.deleteMany({})
    await odd.insertMany([
      { z: 1, a: new Double(1), m: Long.fromString('9007199254740993'), _id: 'text' },
      { _id: new ObjectId('5f5e1000c0ffee0000000001'), when: new Date(1), bytes: new Binary(Buffer.from([0, 1, 255]), 0) },
      { _id: new Int32(7), nothing: null, deep: { b: [1, { c: true }], a: { '': 'empty' } }, pattern: /a.b/i },
      { _id: Long.fromString('8'), at: new Timestamp(2, 1), text: 'ü\u0000\u001b[31m' }
    ])
    await odd.createIndex({ z: 1, a: -1 }, { name: 'z-then-a' })
  }
}

async function main (uri, verb, ...rest) {
  const client = new MongoClient(uri, { useUnifiedTopology: true, serverSelectionTimeoutMS: 10000, promoteValues: false })
  await client.connect()
  const result = await VERBS[verb](client.db(), ...rest)
  process.stdout.write(JSON.stringify(result === undefined ? null : result) + '\n')
  await client.close()
}

main(...process.argv.slice(1)).catch((error) => {
  console.error(String(error))
  process.exit(1)
})
