// Fills a fresh database with what a Binder that has been in use for a while holds. Argument: a MongoDB URI.
'use strict'

const { MongoClient } = require('mongodb')

const DAY = 24 * 60 * 60 * 1000
const now = Date.now()

// The first is what the health checker deploys every 40 seconds.
const REPOSITORIES = ['binder-project/example-requirements', 'binder-project/example-dockerfile', 'freeman-lab/demo']

const imageName = (repository) => repository.replace('/', '-').toLowerCase()

// As binder-build leaves them after a build that went well. Without `limits`: the API server writes `0.5` as `500m`,
// and kube-stream then never finds its own pod again.
const templates = REPOSITORIES.map((repository, age) => ({
  name: imageName(repository),
  'image-name': imageName(repository),
  'image-source': `gcr.io/binder-testing/${imageName(repository)}`,
  port: 8888,
  command: [],
  services: [],
  'time-created': new Date(now - (age + 1) * DAY),
  'time-modified': new Date(now - (age + 1) * DAY)
}))

const builds = REPOSITORIES.map((repository, age) => ({
  name: imageName(repository),
  displayName: repository,
  startTime: new Date(now - (age + 1) * DAY),
  status: 'completed',
  phase: 'finished',
  repo: `https://github.com/${repository}`
}))

async function main (uri) {
  const client = new MongoClient(uri, { useUnifiedTopology: true, serverSelectionTimeoutMS: 20000 })
  await client.connect()
  const db = client.db()
  await db.collection('builds').createIndex({ name: 1 }, { unique: true })
  await db.collection('templates').createIndex({ name: 1 }, { unique: true })
  await db.collection('builds').insertMany(builds)
  await db.collection('templates').insertMany(templates)
  await client.close()
}

main(process.argv[2]).catch((error) => {
  console.error(String(error))
  process.exit(1)
})
