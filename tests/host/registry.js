// A registry of npm modules with what lies in a folder: nothing outside of the lab can be reached. Each `NAME-VERSION.tgz` of the
// folder given as the first argument is a version, read anew for each question. Listens on loopback, on the port given second.
'use strict'

const crypto = require('crypto')
const fs = require('fs')
const http = require('http')
const path = require('path')
const { execFileSync } = require('child_process')

const [folder, port] = process.argv.slice(2)

function versions (name, base) {
  const found = {}
  for (const file of fs.readdirSync(folder).filter((file) => file.startsWith(`${name}-`) && file.endsWith('.tgz'))) {
    const at = path.join(folder, file)
    const manifest = JSON.parse(execFileSync('tar', ['-xzOf', at, 'package/package.json']))
    if (manifest.name !== name) continue
    const integrity = 'sha512-' + crypto.createHash('sha512').update(fs.readFileSync(at)).digest('base64')
    found[manifest.version] = { ...manifest, dist: { tarball: `${base}/${name}/-/${file}`, integrity } }
  }
  return found
}

function answer (request, response) {
  const parts = new URL(request.url, 'http://registry').pathname.split('/').filter(Boolean).map(decodeURIComponent)
  if (parts.length === 1) {
    const found = versions(parts[0], `http://${request.headers.host}`)
    if (Object.keys(found).length) {
      response.setHeader('Content-Type', 'application/json')
      return response.end(JSON.stringify({ name: parts[0], 'dist-tags': { latest: Object.keys(found).at(-1) }, versions: found }))
    }
  }
  if (parts.length === 3 && parts[1] === '-') {
    const at = path.join(folder, path.basename(parts[2]))
    if (fs.existsSync(at)) return response.end(fs.readFileSync(at))
  }
  response.statusCode = 404
  response.end('{}')
}

http.createServer((request, response) => {
  try {
    answer(request, response)
  } catch (error) {
    response.statusCode = 500
    response.end(JSON.stringify({ error: String(error) }))
  }
}).listen(Number(port), '127.0.0.1')
