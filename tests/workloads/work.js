// Files through promises, hashes in the thread pool, timers, a child process.
const fs = require('fs'), crypto = require('crypto'), { spawn } = require('child_process');
const cat = spawn('cat', [], { stdio: ['pipe', 'pipe', 'inherit'] });
let n = 0, key = Buffer.from('start');
function step() {
  crypto.pbkdf2(key, String(n), 2000, 32, 'sha256', (error, next) => {
    key = next;
    fs.promises.appendFile('log', n + '\n').then(() => {
      cat.stdout.once('data', (data) => {
        console.log('step ' + data.toString().trim() + ' ' + key.toString('hex').slice(0, 16));
        if (++n < 60) setTimeout(step, 100);
        else { cat.stdin.end(); cat.on('close', () => process.exit(9)); }
      });
      cat.stdin.write(n + '\n');
    });
  });
}
step();
