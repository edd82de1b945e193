// Loaded before anything else into every Node process of a host that pm2 or `binder-control` starts.
//
// mongoose 5 sends `findAndModify` with a `fields` that is empty, and the lab's database refuses that, so no app would
// ever get past `deploying`. MongoDB itself takes an empty `fields` for "all of them", which is also what its absence
// means: dropping it changes nothing for anybody.
'use strict'

const Module = require('module')

const OPERATION = /mongodb\/lib\/operations\/find_and_modify\.js$/
const extension = Module._extensions['.js']

const isEmpty = (value) => value && typeof value === 'object' && Object.keys(value).length === 0

Module._extensions['.js'] = function (module, filename) {
  extension(module, filename)
  if (!OPERATION.test(filename)) return
  const execute = module.exports.prototype.execute
  module.exports.prototype.execute = function (callback) {
    for (const name of ['fields', 'projection']) {
      if (isEmpty(this.options[name])) delete this.options[name]
    }
    return execute.call(this, callback)
  }
}
