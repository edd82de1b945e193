// Takes the place of GitHub on the build host, where nothing outside of the lab can be reached: gives every repository's
// archive, whatever its name, as a folder with a Dockerfile in it. Listens on port 80 of loopback, where `/etc/hosts`
// puts github.com; so a build's repository is `http://github.com/ORG/REPO`.
'use strict'

const fs = require('fs')
const http = require('http')
const os = require('os')
const path = require('path')
const { execFileSync } = require('child_process')

const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'github-'))
fs.mkdirSync(path.join(folder, 'repository-master'))
fs.writeFileSync(path.join(folder, 'repository-master', 'Dockerfile'), 'FROM andrewosh/binder-base\n')
const archive = execFileSync('tar', ['-czf', '-', '-C', folder, 'repository-master'])
fs.rmSync(folder, { recursive: true })

http.createServer((request, response) => {
  const found = request.method === 'GET' && request.url.endsWith('/archive/master.tar.gz')
  response.writeHead(found ? 200 : 404, { 'Content-Type': 'application/x-gzip' })
  response.end(found ? archive : undefined)
}).listen(80, '127.0.0.1')
