// Takes the place of the logging containers: accepts what winston's logstash transport sends, and keeps the last of it.
'use strict'

const fs = require('fs')
const net = require('net')

// Past this many bytes the file starts over: a host's disk is small, and nobody reads old lines of a lab.
const LIMIT = 4 * 1024 * 1024

const file = process.env.LOGGING_FILE
const ports = [process.env.LOGSTASH_PORT, process.env.WEBSOCKET_PORT].map(Number)
let written = 0

function keep (chunk) {
  const flag = written + chunk.length > LIMIT ? 'w' : 'a'
  written = flag === 'w' ? chunk.length : written + chunk.length
  fs.writeFileSync(file, chunk, { flag })
}

for (const port of ports) {
  net.createServer((socket) => {
    socket.on('data', keep)
    // A client that goes away in the middle is no reason to end.
    socket.on('error', () => socket.destroy())
  }).listen(port, '0.0.0.0', () => console.log(`listening on ${port}`))
}
