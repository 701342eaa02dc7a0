// The operators' port: whether the process is ready.

import { createServer } from 'node:http'

export function serveOps({ host, port }, ready) {
  createServer((request, response) => {
    const up = request.url === '/health/live' || (request.url === '/health/ready' && ready())
    response.writeHead(up ? 200 : 503).end()
  }).listen(port, host)
}
