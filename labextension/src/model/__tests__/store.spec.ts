import { Store } from '../store';
import { Server, until } from './support';

let server: Server;
let store: Store;

beforeEach(() => {
  server = new Server();
  store = new Store(server.api, { pause: 1, interval: 1_000_000, rows: 5000 });
});

afterEach(() => store.dispose());

const held = (kernelId: string) => store.record(kernelId)?.entries.length ?? 0;

describe('the store', () => {
  it('knows kernels that are being started, from the doorbell on', async () => {
    expect(store.starting).toEqual([]);
    server.add('new', 0);
    const why = 'waiting for the container';
    server.said.set('new', { confined: false, starting: true, why });
    store.ringForKernels();
    await until(() => store.starting.length === 1);
    expect(store.starting[0].state!.why).toBe(why);
    server.said.delete('new');
    await store.refresh();
    expect(store.starting).toEqual([]);
    expect(store.record('new')!.state!.confined).toBe(true);
  });

  it('reads a kernel that is watched, page after page', async () => {
    server.add('k', 2500);
    store.watch('k');
    await until(() => held('k') === 2500);
    expect(server.asked).toEqual(['k after 0', 'k after 1000', 'k after 2000']);
  });

  it('reads no alerts of a kernel that nobody watches', async () => {
    server.add('k', 10);
    await store.refresh();
    expect(store.record('k')!.last).toBe(10);
    expect(server.asked).toEqual(['kernels']);
  });

  it('stops reading once nobody watches any more', async () => {
    server.add('k', 1);
    const watch = store.watch('k');
    await until(() => held('k') === 1);
    watch.dispose();
    server.add('k', 1);
    store.ring({ kernel_id: 'k', seq: 2 });
    await store.refresh();
    expect(held('k')).toBe(1);
  });

  it('reads on when the doorbell rings', async () => {
    server.add('k', 1);
    store.watch('k');
    await until(() => held('k') === 1);
    server.add('k', 2);
    store.ring({ kernel_id: 'k', seq: 3, time: '', summary: '' });
    await until(() => held('k') === 3);
    expect(server.asked).toEqual(['k after 0', 'k after 1']);
  });

  it('is not misled by a forged event', async () => {
    server.add('k', 3);
    store.watch('k');
    await until(() => held('k') === 3);
    store.ring({ kernel_id: 'k', seq: 1e15 });
    store.ring({ kernel_id: 'k', seq: -1 });
    store.ring({ kernel_id: ['k'], seq: {} });
    store.ring(null);
    store.ring({ kernel_id: 'nonsense', seq: 4 });
    await store.refresh();
    await until(() => server.asked.includes('k after 3'));
    expect(held('k')).toBe(3);
    expect(store.records.map(({ kernelId }) => kernelId)).toEqual(['k']);
  });

  it('makes of a hundred rings at once two reads', async () => {
    server.add('k', 1);
    store.watch('k');
    await until(() => held('k') === 1);
    server.asked.length = 0;
    server.add('k', 1);
    for (let i = 0; i < 100; i++) {
      store.ring({ kernel_id: 'k', seq: 100 });
    }
    await until(() => server.asked.length === 2);
    await store.refresh();
    expect(server.asked).toEqual(['k after 1', 'k after 2', 'kernels']);
  });

  it('finds without the doorbell what it missed', async () => {
    server.add('k', 1);
    store.watch('k');
    await until(() => held('k') === 1);
    server.add('k', 5);
    await store.refresh();
    await until(() => held('k') === 6);
  });

  it('holds a bounded part of a flood, and knows of the rest', async () => {
    server.capacity = 200_000;
    server.add('k', 100_000);
    await store.refresh();
    store.watch('k');
    await until(() => store.record('k')!.read === 100_000);
    expect(held('k')).toBe(5000);
    expect(server.asked.length).toBe(6);
    await store.readOlder('k');
    expect(held('k')).toBe(6000);
    expect(store.record('k')!.entries[0].seq).toBe(94_001);
  });

  it('says what the server had let go', async () => {
    server.capacity = 100;
    server.add('k', 10);
    store.watch('k');
    await until(() => held('k') === 10);
    server.add('k', 500);
    store.ring({ kernel_id: 'k', seq: 510 });
    await until(() => store.record('k')!.read === 510);
    expect(store.record('k')!.missed).toBe(400);
  });

  it('survives a restart of the server, and its kernels’ end', async () => {
    server.add('k', 3);
    const watch = store.watch('k');
    await until(() => held('k') === 3);
    server.down = -1;
    await store.refresh();
    expect(store.connection).toBe('offline');
    expect(held('k')).toBe(3);
    server.down = 0;
    server.records.clear();
    server.add('l', 1);
    await store.refresh();
    expect(store.connection).toBe('ok');
    expect(store.record('k')!.ended).toBe(true);
    watch.dispose();
    expect(store.record('l')).toBeDefined();
  });

  it('tells a session that expired from a permission that is missing', async () => {
    server.down = 403;
    server.session = false;
    await store.refresh();
    expect(store.connection).toBe('signed-out');
    server.session = true;
    await store.refresh();
    expect(store.connection).toBe('forbidden');
    server.down = 0;
    await store.refresh();
    expect(store.connection).toBe('ok');
  });

  it('knows a server without the extension', async () => {
    server.down = 404;
    await store.refresh();
    expect(store.connection).toBe('absent');
  });

  it('remembers how far each record went when the page was opened', async () => {
    server.add('k', 7);
    await store.refresh();
    expect(store.record('k')!.known).toBe(7);
    server.add('l', 2);
    await store.refresh();
    expect(store.record('l')!.known).toBe(0);
  });

  it('keeps few of the kernels that have ended', async () => {
    for (let i = 0; i < 30; i++) {
      server.add(`k${i}`, 1);
    }
    const watches = [...server.records.keys()].map(id => store.watch(id));
    await until(() => [...server.records.keys()].every(id => held(id) === 1));
    await store.refresh();
    watches.forEach(watch => watch.dispose());
    server.records.clear();
    await store.refresh();
    expect(store.records.length).toBe(10);
  });
});
