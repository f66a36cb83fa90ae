import java.util.concurrent.*;

public class Work {
    public static void main(String[] arguments) throws Exception {
        ExecutorService pool = Executors.newFixedThreadPool(3);
        ConcurrentHashMap<Integer, Long> seen = new ConcurrentHashMap<>();
        for (int n = 0; n < 100; n++) {
            final int seed = n;
            Future<Long> future = pool.submit(() -> {
                long value = seed;
                for (int k = 0; k < 2_000_000; k++) value = value * 6364136223846793005L + 1442695040888963407L;
                return value;
            });
            seen.put(n, future.get());
            System.out.println("step " + n + " " + seen.values().stream().mapToLong(Long::longValue).sum());
            Thread.sleep(100);
        }
        pool.shutdown();
    }
}
