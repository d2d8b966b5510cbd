import { useWebSocket } from '@/hooks/useWebSocket'
import { backendApi } from '@/services/backendApi'

function ChatComponent() {
  const { isConnected, messages, sendChat } = useWebSocket('user_123')

  const handleLogin = async () => {
    try {
      const result = await backendApi.login('testuser', 'password123')
      console.log('登录成功:', result)
    } catch (error) {
      console.error('登录失败:', error)
    }
  }

  const handleSendMessage = async () => {
    // 方法1: 使用REST API
    const response = await backendApi.sendMessage([
      { id: '1', content: '你好', role: 'user', timestamp: Date.now() }
    ])
    console.log('AI响应:', response.content)

    // 方法2: 使用WebSocket (实时)
    sendChat('你好，这是实时消息')
  }

  return (
    <div>
      <div>WebSocket状态: {isConnected ? '已连接' : '未连接'}</div>
      <button onClick={handleLogin}>登录</button>
      <button onClick={handleSendMessage}>发送消息</button>
    </div>
  )
}
