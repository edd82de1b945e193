#!/usr/bin/env node
// `binder-control` as the hosts of 2016 had it, over the published Binder packages.
//
// What it must keep of the original, since the operator has to live with it:
// - a server's own words (`start`, `--api-key=KEY`) reach pm2 without the server's name before them;
// - a server command returns as soon as pm2 was asked, whatever becomes of the server;
// - `start-service` and `stop-service` end with 1 when they succeeded and with 2 when they failed.
'use strict'

const fs = require('fs')
const net = require('net')
const path = require('path')

const program = require('commander')
const shell = require('shelljs')
const { startWithPM2 } = require('binder-utils')

const SERVERS = {
  web: 'binder-web',
  build: 'binder-build',
  health: 'binder-health-checker',
  'deploy-kubernetes': 'binder-deploy-kubernetes'
}

// How long the logging service is given to answer. The original sleeps so long whatever happens.
const LOGGING_LIMIT = 2 * 60 * 1000

const SUCCEEDED = 1
const FAILED = 2

function config (name) {
  return JSON.parse(fs.readFileSync(path.join(process.env.HOME, '.binder', name), 'utf8'))
}

// Both services are containers of a compose file; this is the process that pm2 then watches.
function compose (service, env, done) {
  startWithPM2({
    name: `binder-${service}-service`,
    env,
    // pm2 1.1.3 takes a text file for JavaScript unless its name says otherwise, whatever `exec_interpreter` is.
    script: shell.which('docker-compose.sh'),
    args: ['-f', path.join(__dirname, 'services', service, 'docker-compose.yml'), 'up'],
    exec_interpreter: 'none'
  }, done)
}

function untilOpen (port, deadline, done) {
  const socket = net.connect(port, '127.0.0.1')
  socket.once('connect', () => { socket.destroy(); done() })
  socket.once('error', (err) => {
    if (Date.now() > deadline) return done(err)
    setTimeout(untilOpen, 200, port, deadline, done)
  })
}

const SERVICES = {
  db (done) {
    const db = config('db.conf')
    compose('db', { MONGODB_PORT: db.port, MONGODB_DIR: db.dir }, done)
  },
  logging (done) {
    const logging = config('logging.conf')
    const env = { LOGSTASH_PORT: logging.logstash.port, WEBSOCKET_PORT: logging.streaming.port }
    compose('logging', env, (err) => {
      if (err) return done(err)
      untilOpen(logging.logstash.port, Date.now() + LOGGING_LIMIT, done)
    })
  }
}

function finish (doing, done, name) {
  return (err) => {
    if (err) {
      console.error(`Failed to ${doing} service ${name}: ${err}`)
      process.exit(FAILED)
    }
    console.log(`${done} service ${name} successfully`)
    process.exit(SUCCEEDED)
  }
}

function known (name, done) {
  if (Object.hasOwn(SERVICES, name)) return true
  done(new Error(`Cannot find service: ${name}`))
  return false
}

function services () {
  program.version('1.0.1')
  program
    .command('start-service <name>')
    .description('Start a single Binder service (db or logging)')
    .action((name) => {
      const done = finish('start', 'Started', name)
      if (known(name, done)) SERVICES[name](done)
    })
  program
    .command('stop-service <name>')
    .description('Stop a single Binder service (db or logging)')
    .action((name) => {
      const done = finish('stop', 'Stopped', name)
      if (known(name, done)) shell.exec(`pm2 delete binder-${name}-service`, done)
    })
  program
    .command('status')
    .description('Show information about all running Binder servers/services')
    .action(() => {
      console.log('Running Binder servers:')
      shell.exec('pm2 list')
    })
  for (const name of Object.keys(SERVERS)) program.command(name).description(`Manage the ${name} server`)
  if (!program.commands.some((command) => command.name() === process.argv[2])) program.help()
  program.parse(process.argv)
}

const server = process.argv[2]
if (Object.hasOwn(SERVERS, server)) {
  // The packages give pm2 everything from the third word on.
  process.argv.splice(2, 1)
  require(SERVERS[server]).cli.pm2CLI(program)
  if (process.argv.length === 2) program.help()
  program.parse(process.argv)
} else {
  services()
}
